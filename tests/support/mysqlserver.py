# SPDX-License-Identifier: Apache-2.0
"""MySQL's own server for tests: the package of Debian's unstable release, fetched once into the cache.

Debian's releases have MariaDB alone. The package and the libraries it names are unpacked beside the system
and run from there by their own dynamic loader, since its C library is newer than the system's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from databases import MariaDb, Missing, Server

from sealpod.errors import SealpodError
from sealpod.guestimage import debian, tools
from sealpod.guestimage.cache import cache_directory, completed

SUITE = debian.UNSTABLE
PACKAGES = ("mysql-server-core", "mysql-client-core")
_UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/lib/x86_64-linux-gnu/gconv")


class MySql(MariaDb):
    """mysqld of MySQL, as it is set up by default: every user by caching_sha2_password, a binary log."""

    def __init__(self) -> None:
        try:
            self.root = _unpacked()
            found = subprocess.run(
                self.program("usr/sbin/mysqld", "--version"), capture_output=True, text=True
            )
        except (SealpodError, OSError) as error:
            raise Missing(f"MySQL cannot be fetched: {error}") from None
        version = re.search(r"Ver (\d+\.\d+\.\d+)", found.stdout)
        if version is None:
            raise Missing(f"MySQL does not run here: {found.stderr.strip()[:200]}")
        self.version = version[1]
        # Whoever owns the cache can read it, and other accounts perhaps not.
        Server.__init__(self, "mysql", "root")

    def program(self, path: str, *arguments: str) -> list[str]:
        """A command of one of the package's programs."""
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
        return [*loader, str(self.root / path), *arguments]

    def _server(self, *arguments: str) -> list[str]:
        return self.program(
            "usr/sbin/mysqld",
            "--no-defaults",
            f"--user={self.account}",
            f"--basedir={self.root / 'usr'}",
            f"--lc-messages-dir={self.root / 'usr/share/mysql'}",
            f"--plugin-dir={self.root / 'usr/lib/mysql/plugin'}",
            f"--datadir={self.directory / 'data'}",
            *arguments,
        )

    def prepare(self) -> None:
        self.run(*self._server("--initialize-insecure", "--innodb-doublewrite=0"))

    def command(self) -> Sequence[str]:
        return self._server(
            f"--socket={self.socket}",
            f"--pid-file={self.directory / 'pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--mysqlx=OFF",
            "--secure-file-priv=NULL",
            "--skip-name-resolve",
            "--performance-schema=OFF",
            "--innodb-flush-log-at-trx-commit=2",
            "--sync-binlog=0",
            "--innodb-buffer-pool-size=64M",
            "--innodb-redo-log-capacity=64M",
            "--innodb-doublewrite=0",
            "--max-connections=300",
        )

    def run_sql(self, database: str, *statements: str) -> None:
        text = "".join(f"{statement};\n" for statement in statements).encode()
        options = [*self.client(), "--default-character-set=utf8mb4", database]
        self.run(*self.program("usr/bin/mysql", *options), stdin=text)

    def dump(self, database: str) -> bytes:
        options = ["--skip-extended-insert", "--hex-blob", "--no-tablespaces", database]
        return self.run(*self.program("usr/bin/mysqldump", *self.client(), *options))


class _Apt(debian.PrivateApt):
    """An apt that also follows dependencies."""

    def with_libraries(self, names: Iterable[str]) -> list[str]:
        """The packages of these names and every library they need, the C library among them."""
        wanted = ["--print-uris", "--yes", "--no-install-recommends", *names]
        # 'ADDRESS' NAME_VERSION_ARCHITECTURE.deb SIZE HASH
        found = re.findall(r"^'\S+' ([^_\s]+)_", self._run("apt-get", "install", *wanted), re.MULTILINE)
        return [name for name in found if name.startswith(("lib", "mysql-", "zlib")) and "perl" not in name]


def _unpacked() -> Path:
    directory = Path(cache_directory()) / "mysql" / SUITE
    if not directory.is_dir():
        with completed(str(directory)) as work, tempfile.TemporaryDirectory() as state:
            apt = _Apt(state, debian.system_mirror(), SUITE)
            apt.update()
            fetched = Path(state) / "fetched"
            fetched.mkdir()
            apt.download(apt.with_libraries(PACKAGES), str(fetched))
            for package in sorted(fetched.iterdir()):
                tools.run(["dpkg-deb", "-x", str(package), work], package="dpkg")
            for unused in _UNUSED:
                shutil.rmtree(Path(work) / unused, ignore_errors=True)
            for program in (Path(work) / "usr/bin").iterdir():
                if program.name not in ("mysql", "mysqldump"):
                    program.unlink()
    return directory

# SPDX-License-Identifier: Apache-2.0
"""Fetch Debian packages by name from any suite, with apt but beside the system's apt.

apt gets a configuration, package lists, cache and dpkg status of its own, so it works when the system has
never run ``apt-get update``, needs no root, and leaves the system's state alone. The mirror and its keys
are the machine's (:mod:`sealpod.guestimage.aptsources`), and so are proxy settings; apt verifies the
archive's signature and every package against it. Dependencies are not followed: the caller names what it
wants.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Final

from sealpod.errors import NotFoundError, OperationError
from sealpod.guestimage import tools
from sealpod.guestimage.aptsources import Mirror, Source, debian_mirror, parse_deb822, parse_one_line
from sealpod.guestimage.cache import completed, make_directory
from sealpod.guestimage.manifest import Input, file_sha256

APT_DIRECTORY: Final = "/etc/apt"
DEFAULT_KEYRINGS: Final = (
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
)
INDEX_NAME: Final = "packages.json"
UNSTABLE: Final = "sid"
KEY_LENGTH: Final = 16  # hexadecimal digits of a cache key


@dataclass(frozen=True, slots=True)
class Package:
    """A fetched package; ``path`` is absolute."""

    name: str
    version: str
    sha256: str
    path: str

    def as_input(self) -> Input:
        """The manifest's line for it."""
        return Input("deb", self.name, self.version, self.sha256)


@dataclass(frozen=True, slots=True)
class Request:
    """Package names wanted from one suite.

    A name ending in ``>`` is a metapackage standing for the first package it depends on.
    """

    suite: str
    names: tuple[str, ...]

    def key(self) -> str:
        """Cache key: the same request, the same directory."""
        return hashlib.sha256(json.dumps([self.suite, sorted(self.names)]).encode()).hexdigest()[:KEY_LENGTH]


def system_mirror(directory: str = APT_DIRECTORY) -> Mirror:
    """The machine's Debian mirror; raises :class:`NotFoundError` (``apt.mirror``) when it has none."""
    mirror = debian_mirror(_system_sources(directory))
    if mirror is None:
        raise NotFoundError(
            f"no Debian archive among the sources in {directory}",
            code="apt.mirror",
            remedy="name one with --mirror (and its keys with --keyring)",
        )
    return mirror


def fetch(
    request: Request, cache: str, mirror: Callable[[], Mirror], *, refresh: bool = False
) -> tuple[Package, ...]:
    """The packages of ``request``, from the cache or else from the mirror; in the order of their names.

    ``mirror`` is asked only when something has to be fetched; ``refresh`` fetches anew whatever the cache
    has. Raises :class:`OperationError` (``tool.failed``) when apt refuses, :class:`NotFoundError` without
    apt or mirror.
    """
    directory = os.path.join(cache, "debs", request.key())
    found = None if refresh else _cached(directory)
    if found is None:
        with completed(directory) as work, tempfile.TemporaryDirectory(dir=os.path.dirname(work)) as state:
            apt = PrivateApt(state, mirror(), request.suite)
            apt.update()
            apt.download(request.names, work)
            _write_index(work)
        found = _cached(directory)
    if found is None:
        raise OperationError(f"packages fetched into {directory} are gone or damaged", code="cache.damaged")
    return found


def unpack(packages: Iterable[Package], directory: str) -> None:
    """Extract the packages' files (no maintainer scripts) into ``directory``, one over the other."""
    make_directory(directory)
    for package in packages:
        tools.run(["dpkg-deb", "-x", package.path, directory], package="dpkg")


class PrivateApt:
    """apt with everything of its own under ``state``, for one suite (and that suite's security updates)."""

    def __init__(self, state: str, mirror: Mirror, suite: str) -> None:
        self._state = state
        for name in ("lists/partial", "cache/archives/partial", "parts", "empty"):
            make_directory(os.path.join(state, name))
        self._write("status", "")
        self._write("parts/guest.sources", sources_text(mirror, suite))
        acquire = _acquire_settings(tools.run(["apt-config", "dump"], package="apt"))
        self._write("apt.conf", configuration_text(state) + acquire)

    def update(self) -> None:
        """Fetch and verify the package lists."""
        self._run("apt-get", "update", "-o", "APT::Update::Error-Mode=any")

    def download(self, names: Iterable[str], directory: str) -> None:
        """Fetch and verify the packages' candidates into ``directory``."""
        wanted = [self._dependency(name[:-1]) if name.endswith(">") else name for name in names]
        self._run("apt-get", "download", *wanted, cwd=directory)

    def _dependency(self, name: str) -> str:
        shown = self._run("apt-cache", "show", "--no-all-versions", name)
        match = re.search(r"^Depends: (?:.*, )?(?P<name>linux-image-[^ ,|]+)", shown, re.MULTILINE)
        if match is None:
            raise NotFoundError(f"package {name} depends on no kernel", code="apt.dependency")
        return match["name"]

    def _run(self, *command: str, cwd: str | None = None) -> str:
        extra = {"APT_CONFIG": os.path.join(self._state, "apt.conf")}
        return tools.run(command, cwd=cwd, extra=extra, package="apt")

    def _write(self, name: str, text: str) -> None:
        # A mirror's address may carry credentials: the directory is private (mkdtemp).
        with open(os.path.join(self._state, name), "w", encoding="utf-8") as stream:
            stream.write(text)


def sources_text(mirror: Mirror, suite: str) -> str:
    """The private ``.sources`` file: package lists only, for one architecture."""
    entries = [(mirror.archive, suite)]
    if mirror.security is not None and suite != UNSTABLE and "-" not in suite:
        entries.append((mirror.security, f"{suite}-security"))
    signed_by = mirror.signed_by or next((path for path in DEFAULT_KEYRINGS if os.path.exists(path)), "")
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {name}\nComponents: main\nArchitectures: amd64\n"
        "Targets: Packages\nLanguages: none\n" + (f"Signed-By: {signed_by}\n" if signed_by else "")
        for uri, name in entries
    )


def configuration_text(state: str) -> str:
    """The private ``apt.conf``: no system sources, preferences, hooks or state."""
    settings = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": f"{state}/parts",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": f"{state}/empty",
        "Dir::Etc::Parts": f"{state}/empty",
        "Dir::Etc::Main": "/dev/null",
        "Dir::State": state,
        "Dir::State::Lists": f"{state}/lists",
        "Dir::State::Status": f"{state}/status",
        "Dir::Cache": f"{state}/cache",
        "APT::Architecture": "amd64",
        # apt as root would fetch as another user, who cannot write below a private directory.
        "APT::Sandbox::User": "root",
    }
    return "".join(f'{name} "{value}";\n' for name, value in settings.items())


def _acquire_settings(dump: str) -> str:
    """The lines of ``apt-config dump`` that say how to reach the network: proxies, certificates, retries."""
    kept = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-", "Acquire::Force")
    return "".join(line + "\n" for line in dump.splitlines() if line.startswith(kept))


def _system_sources(directory: str) -> Iterable[Source]:
    one_line = [
        os.path.join(directory, "sources.list"),
        *sorted(glob.glob(f"{directory}/sources.list.d/*.list")),
    ]
    for path in sorted(glob.glob(f"{directory}/sources.list.d/*.sources")):
        yield from parse_deb822(_read(path))
    for path in one_line:
        yield from parse_one_line(_read(path))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _write_index(directory: str) -> None:
    packages = []
    for path in sorted(glob.glob(os.path.join(directory, "*.deb"))):
        name, version = tools.run(
            ["dpkg-deb", "--show", "--showformat=${Package}\n${Version}", path], package="dpkg"
        ).split("\n")
        packages.append(Package(name, version, file_sha256(path), os.path.basename(path)))
    with open(os.path.join(directory, INDEX_NAME), "w", encoding="utf-8") as stream:
        json.dump([asdict(package) for package in packages], stream, indent=1)


def _cached(directory: str) -> tuple[Package, ...] | None:
    try:
        with open(os.path.join(directory, INDEX_NAME), encoding="utf-8") as stream:
            packages = [Package(**entry) for entry in json.load(stream)]
        for package in packages:
            if file_sha256(os.path.join(directory, package.path)) != package.sha256:
                return None
    except (OSError, ValueError, TypeError):
        return None
    absolute = (Package(p.name, p.version, p.sha256, os.path.join(directory, p.path)) for p in packages)
    return tuple(sorted(absolute, key=lambda package: package.name))

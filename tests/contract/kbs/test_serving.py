# SPDX-License-Identifier: Apache-2.0
"""The broker as a process, its limits and its start-up errors."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sealpod.errors import SealpodError, UnavailableError, UsageError
from sealpod.kbs.core.audit import Decision, Entry
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.server import ServerConfig, serve
from sealpod.kbs.store.database import open_database
from sealpod.kbs.store.secrets import set_secret
from sealpod.secret import SecretBytes

GUID = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
BUNDLE = (GUID, "JSON", "bundle", "KEYSET-1")


def sealpod(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sealpod.cli.main", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture
def process(platform: Any, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """`sealpod kbs serve` on a free port: process, database URL, address."""
    url = f"sqlite:///{tmp_path / 'kbs.db'}"
    arguments = ["--listen", "127.0.0.1:0", "--database", url, "--trust-ark", platform.fingerprint.upper()]
    running = sealpod("kbs", "serve", *arguments, "--no-amd-roots")
    assert running.stderr is not None
    try:
        for line in running.stderr:
            if line.startswith("listening on "):
                yield running, url, line.split()[-1]
                break
    finally:
        running.kill()
        running.wait(timeout=10)
        running.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_and_stops(process: Any, host_at: Any, number: int, tmp_path: Path) -> None:
    running, url, address = process
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    for arguments in (
        ["secret", "set", "key_id1", "--from-file", str(key)],
        ["keyset", "set", "KEYSET-1", "--secret", "key_id1"],
    ):
        done = sealpod(
            "kbs", *arguments, env={**os.environ, "SEALPOD_KBS_DATABASE": url}, stdout=subprocess.DEVNULL
        )
        _, errors = done.communicate(timeout=30)
        assert done.returncode == 0, errors
    host = host_at(address)
    launched = host.launch()
    table = launched.open(host.client.secret(BUNDLE, **launched.claim))
    assert json.loads(table[GUID]) == {"key_id1": base64.b64encode(b"k" * 32).decode()}
    running.send_signal(number)
    _, log = running.communicate(timeout=30)
    assert running.returncode == 0, log
    assert 'root="model"' in log
    assert "kkkkkkkk" not in log
    assert base64.b64encode(b"k" * 32).decode() not in log
    # A clean end leaves the database and its key: the write-ahead log is merged.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kbs.db", "kbs.db.kek", "key"]


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(ServerConfig(f"127.0.0.1:{port}", f"sqlite:///{tmp_path / 'kbs.db'}"))


def test_a_port_that_is_taken_is_said_in_our_words_alone(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = [
            "--database",
            f"sqlite:///{tmp_path / 'kbs.db'}",
            "--listen",
            address,
            "--log-level",
            "error",
        ]
        environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        with sealpod("kbs", "serve", *words, env=environment) as ended:
            _, said = ended.communicate()
    assert ended.returncode == UnavailableError.exit_status
    (line,) = said.splitlines()
    assert line.startswith(f"sealpod: error: cannot listen on {address}; ")


@pytest.mark.parametrize(
    "listen", ["", "44444", "host:", ":1", "127.0.0.1:65536", "::1:1", "a b:1", "unix:/x"]
)
def test_an_address_that_is_none(tmp_path: Path, listen: str) -> None:
    with pytest.raises(UsageError, match="not HOST:PORT"):
        serve(ServerConfig(listen, f"sqlite:///{tmp_path / 'kbs.db'}"))


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "AMD Milan", "a" * 65])
def test_a_fingerprint_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="not a SHA-256"):
        serve(ServerConfig("127.0.0.1:0", f"sqlite:///{tmp_path / 'kbs.db'}", (text,)))


def test_nothing_to_trust(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no root is trusted"):
        serve(ServerConfig("127.0.0.1:0", f"sqlite:///{tmp_path / 'kbs.db'}", amd_roots=False))


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "sqlite://", "sqlite:///:memory:", "oracle-x://a/b", "sqlite:////nowhere/at/all.db"],
)
def test_a_database_that_is_none(url: str) -> None:
    with pytest.raises(SealpodError) as caught:
        serve(ServerConfig("127.0.0.1:0", url))
    assert caught.value.code.startswith("store.")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "kbs.db"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(SealpodError, match="database"):
        serve(ServerConfig("127.0.0.1:0", f"sqlite:///{path}"))


class Serving:
    """A broker with other settings than the shared one."""

    def __init__(self, host_at: Any, platform: Any, tmp_path: Path) -> None:
        self._host_at = host_at
        self._platform = platform
        self.url = f"sqlite:///{tmp_path / 'own.db'}"
        self._open: list[Any] = []

    def __call__(self, auditor: Any = None, **options: Any) -> Any:
        config = ServerConfig("127.0.0.1:0", self.url, (self._platform.fingerprint,), **options)
        running = serve(config, auditor=auditor)
        self._open.append(running.stop)
        return self._host_at(running.address)

    def close(self) -> None:
        for close in self._open:
            close()


@pytest.fixture
def serving(host_at: Any, platform: Any, tmp_path: Path) -> Iterator[Serving]:
    made = Serving(host_at, platform, tmp_path)
    yield made
    made.close()


def test_launches_expire(serving: Serving) -> None:
    host = serving(limits=Limits(launch_ttl=0.0))
    launched = host.launch()
    assert host.client.refusal(host.client.secret, **launched.claim).code == "launch.unknown"


def test_launches_are_capped(serving: Serving) -> None:
    host = serving(limits=Limits(max_launches=2))
    first, _ = host.launch(), host.launch()
    refused = host.client.refusal(host.launch)
    assert refused.code == "launch.too-many"
    assert refused.text == "Failed to generate launch bundle: 2 launches are in progress"
    host.client.secret(**first.claim)
    host.launch()


def test_expired_launches_make_room(serving: Serving) -> None:
    host = serving(limits=Limits(max_launches=2, launch_ttl=0.0))
    for _ in range(5):
        host.launch()


def test_the_default_policy_binds_every_release(serving: Serving) -> None:
    from sealpod.kbs.core.policy import Rule

    host = serving(default_rule=Rule(min_api=(0, 25)))
    launched = host.launch()
    refused = host.client.refusal(host.client.secret, (GUID, "", "connection", ""), **launched.claim)
    assert refused.text == "Policy validation failed: fw api minor not valid"


def test_online_replies_are_bounded(serving: Serving) -> None:
    host = serving(limits=Limits(online_reply=150))
    connection = host.connect()
    with open_database(serving.url) as db:
        set_secret(db, "key", SecretBytes(b"k" * 80), policy=None)
    two = [(GUID, "binary", "key", "key"), ("another", "binary", "key", "key")]
    assert host.client.fetch(connection, two[0])
    refused = host.client.refusal(host.client.online, connection["client_id"], *two)
    assert refused.code == "secret.reply-too-large"


def test_no_release_without_its_record(serving: Serving) -> None:
    class Full:
        def record(self, decision: Decision, entry: Entry | None) -> None:
            if decision.call == "GetSecret":
                raise OSError("no space")

    host = serving(auditor=Full())
    launched = host.launch()
    refused = host.client.refusal(host.client.secret, **launched.claim)
    assert refused.code == "internal.error"


def test_many_hosts_at_once(serving: Serving) -> None:
    host = serving()
    failures: list[BaseException] = []

    def launches() -> None:
        try:
            for _ in range(5):
                launched = host.launch()
                assert launched.open(host.client.secret(**launched.claim)) == {}
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=launches) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failures

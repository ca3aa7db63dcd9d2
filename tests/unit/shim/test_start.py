# SPDX-License-Identifier: Apache-2.0
"""``start``: what it prints, writes and leaves. In place of the server, its command line is noted."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sealpod.shim import bundle, start
from sealpod.shim.arguments import Arguments
from sealpod.shim.main import main

MEMBER = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod1"}
SANDBOX = {"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "pod1"}
# What a start may load: nothing that serves, launches or parses command lines.
HEAVY = {
    "argparse", "asyncio", "ctypes", "dataclasses", "google", "grpc", "importlib.metadata", "logging",
    "pathlib", "sealpod.sandbox", "sealpod.wire", "ssl", "subprocess", "tempfile", "threading",
}  # fmt: skip


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bundle as working directory, and a place for sockets beside it, with short names."""
    with tempfile.TemporaryDirectory(prefix="sh") as directory:
        home = Path(directory)
        (home / "bundle").mkdir()
        monkeypatch.chdir(home / "bundle")
        monkeypatch.setenv("SEALPOD_SHIM_SOCKETS", str(home / "s"))
        yield home


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines of the servers that were started."""
    commands: list[list[str]] = []

    def spawn(path: str, command: list[str], environment: object, **options: Any) -> int:
        assert options["setsid"]
        commands.append(command)
        return 4242

    monkeypatch.setattr(os, "posix_spawn", spawn)
    return commands


def configure(home: Path, annotations: dict[str, str]) -> None:
    (home / "bundle" / "config.json").write_text(json.dumps({"annotations": annotations}))


def arguments(own: str) -> Arguments:
    return Arguments("start", "k8s.io", own, "/run/c.sock", "/usr/bin/containerd")


def listen(home: Path, path: str) -> socket.socket:
    (home / "s").mkdir(exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


def test_a_pod_gets_a_socket_and_a_server(home: Path, spawned: list[list[str]]) -> None:
    configure(home, SANDBOX)
    address = start.start(arguments("pod1"), "kata-qemu-sev")
    path = address.removeprefix("unix://")
    assert path == bundle.socket_path("/run/c.sock", "k8s.io", "pod1")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(home / "s").st_mode) == 0o700
    assert (home / "bundle" / "address").read_text() == address
    assert (home / "bundle" / "shim.pid").read_text() == "4242"
    [command] = spawned
    assert command[:4] == [sys.executable, "-P", "-m", "sealpod.shim"]
    pairs = dict(zip(command[4::2], command[5::2], strict=True))
    assert pairs == {
        "-namespace": "k8s.io",
        "-address": "/run/c.sock",
        "-publish-binary": "/usr/bin/containerd",
        "-id": "pod1",
        "-bundle": str(home / "bundle"),
        "-socket": path,
        "-runtime": "kata-qemu-sev",
    }


def test_a_member_gets_the_pods_address_and_nothing_is_started(home: Path, spawned: list[list[str]]) -> None:
    configure(home, MEMBER)
    address = start.start(arguments("member"), "kata")
    assert address == f"unix://{bundle.socket_path('/run/c.sock', 'k8s.io', 'pod1')}"
    assert (home / "bundle" / "address").read_text() == address
    assert not (home / "bundle" / "shim.pid").exists()
    assert not spawned
    assert not (home / "s").exists()


def test_a_dead_shims_socket_is_replaced(home: Path, spawned: list[list[str]]) -> None:
    configure(home, SANDBOX)
    path = bundle.socket_path("/run/c.sock", "k8s.io", "pod1")
    listen(home, path).close()
    before = os.stat(path).st_ino, os.stat(path).st_mtime_ns
    start.start(arguments("pod1"), "kata")
    assert (os.stat(path).st_ino, os.stat(path).st_mtime_ns) != before
    assert len(spawned) == 1


def test_a_living_shim_is_used_again(home: Path, spawned: list[list[str]]) -> None:
    configure(home, {})
    path = bundle.socket_path("/run/c.sock", "k8s.io", "pod1")
    with listen(home, path):
        assert start.start(arguments("pod1"), "kata") == f"unix://{path}"
    assert not spawned


def test_two_starts_of_a_pod_at_once_give_one_listener(home: Path) -> None:
    path = str(home / "s" / "one")
    found: list[socket.socket | None] = []
    ready = threading.Barrier(4)

    def run() -> None:
        ready.wait()
        found.append(start.listen(path))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listeners = [one for one in found if one is not None]
    assert len(found) == 4
    assert start.answers(path)
    for one in listeners:
        one.close()


@pytest.mark.parametrize("failing", ["posix_spawn", "replace"])
def test_a_start_that_fails_leaves_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, spawned: list[list[str]], failing: str
) -> None:
    configure(home, SANDBOX)
    killed: list[int] = []

    def fail(*_args: object, **_kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    monkeypatch.setattr(os, "kill", lambda pid, _signal: killed.append(pid))
    with pytest.raises(OSError, match="No space"):
        start.start(arguments("pod1"), "kata")
    assert list((home / "s").iterdir()) == []
    assert killed == ([4242] if spawned else [])


@pytest.mark.parametrize(
    ("prepare", "words", "text"),
    [
        (lambda home: None, ["-id", "a", "-namespace", "n", "-address", "/c"], "config.json: No such file"),
        (lambda home: configure(home, {}), ["-id", "a"], "start needs"),
        (lambda home: (home / "s").write_text(""), ["-id", "a", "-namespace", "n", "-address", "/c"], ""),
    ],
)
def test_a_failure_is_one_line_and_a_status(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[Path], object],
    words: list[str],
    text: str,
) -> None:
    if text == "":
        configure(home, {})
    prepare(home)
    assert main("containerd-shim-kata-v2", [*words, "start"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("sealpod: ")
    assert text in printed.err
    assert printed.err.count("\n") == 1


def test_a_path_too_long_is_named(
    home: Path, spawned: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(home, {})
    monkeypatch.setenv("SEALPOD_SHIM_SOCKETS", str(home / ("x" * 60)))
    with pytest.raises(OSError, match="too long"):
        start.start(arguments("pod1"), "kata")


def test_start_loads_nothing_heavy() -> None:
    code = "import sys, sealpod.shim.main, sealpod.shim.start; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout
    assert not HEAVY & (set(loaded.split()) - set(bare.split()))


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("containerd-shim-kata-qemu-v2", ["-v"]) == 0
    assert capsys.readouterr().out.startswith("kata-qemu:\n  Version:  ")


def test_what_nobody_asks_for_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["reboot"]):
        assert main("containerd-shim-kata-v2", words) == 2
        assert "sealpod sandbox" in capsys.readouterr().err


def test_info_is_containerds_message(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    from sealpod.wire.taskapi import MESSAGES

    assert main("containerd-shim-kata-qemu-sev-v2", ["-info"]) == 0
    info = MESSAGES.decode("RuntimeInfo", capsysbinary.readouterr().out)
    assert info.name == "io.containerd.kata-qemu-sev.v2"
    assert info.version.version

# SPDX-License-Identifier: Apache-2.0
"""Finding the virtio port by name or falling back to vsock, and waiting for the host.

Left out: real vsock sockets (tests/e2e/test_vsock_host.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from sealpod.agent import __main__ as main_module
from sealpod.agent import channel
from sealpod.agent.console import Console
from sealpod.agent.server import Server
from sealpod.errors import NotFoundError, UnavailableError
from sealpod.wire.agentapi import AGENT

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode does not
from client import Client


def test_by_link(tmp_path: Path) -> None:
    (tmp_path / "agent.channel.0").touch()
    assert channel.find(links=str(tmp_path), classes="/none") == str(tmp_path / "agent.channel.0")


def test_by_class(tmp_path: Path) -> None:
    for port, name in (("vport1p1", "other"), ("vport1p2", "agent.channel.0"), ("vport1p3", None)):
        (tmp_path / port).mkdir()
        if name is not None:
            (tmp_path / port / "name").write_text(f"{name}\n")
    assert channel.find(links="/none", classes=str(tmp_path)) == "/dev/vport1p2"


def test_absent(tmp_path: Path) -> None:
    assert channel.find(links=str(tmp_path), classes=str(tmp_path)) is None
    assert channel.find(links="/none", classes="/none") is None


def test_a_port_that_never_comes(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        channel.open_channel("no.such.port", timeout=0, devices=str(tmp_path))
    assert caught.value.code == "agent.no-channel"


def virtio(tmp_path: Path, *numbers: int) -> str:
    for position, number in enumerate(numbers):
        (tmp_path / f"virtio{position}").mkdir()
        (tmp_path / f"virtio{position}" / "device").write_text(f"0x{number:04x}\n")
    return str(tmp_path)


def test_devices_by_their_numbers(tmp_path: Path) -> None:
    assert channel.virtio_devices(virtio(tmp_path, 1, 3, 19)) == {1, channel.SERIAL, channel.VSOCK}
    assert channel.virtio_devices("/none") == set()


def test_vsock_where_there_is_no_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listening = socket.socket()
    monkeypatch.setattr(channel, "listen", lambda: listening)
    with listening:
        devices = virtio(tmp_path, 1, 19)
        assert channel.open_channel("no.such.port", timeout=0, devices=devices) is listening


def test_a_machine_with_both_waits_for_its_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "listen", lambda: pytest.fail("the port was to be waited for"))
    with pytest.raises(UnavailableError):
        channel.open_channel("no.such.port", timeout=0, devices=virtio(tmp_path, 3, 19))


def test_vsock_without_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealpod.agent.modules._order", lambda directory: {})
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    with pytest.raises(NotFoundError, match="no kernel module vmw_vsock_virtio_transport"):
        channel.listen()


@pytest.mark.parametrize(("stranger", "turned"), [(1, True), (3, True), (2, False)])
def test_only_the_host_is_let_in(stranger: int, turned: bool) -> None:
    """A context id that is not the host's is a process of the guest, or another guest."""
    peers = [socket.socketpair() for _ in range(2)]
    waiting = [(peers[0][0], (stranger, 5000)), (peers[1][0], (channel.HOST_CID, 5001))]
    listener = SimpleNamespace(family=socket.AF_VSOCK, accept=lambda: waiting.pop(0))
    accepted = channel.accept(listener)  # type: ignore[arg-type]
    assert (accepted is peers[1][0]) is turned
    assert (peers[0][0].fileno() == -1) is turned
    for pair in peers:
        for one in pair:
            one.close()


def test_many_connections_are_served(tmp_path: Path) -> None:
    """Two clients at once, and a third after one of them left; the same service answers all."""
    calls: list[bytes] = []

    def handler(payload: bytes) -> bytes:
        calls.append(payload)
        return b""

    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        methods = {(AGENT, "CreateSandbox"): handler}
        refusals = {(AGENT, "ExecProcess"): "ExecProcessRequest is blocked"}

        def server(descriptor: int) -> Server:
            return Server(descriptor, methods, Console(), refusals=refusals)

        def serve() -> None:
            with contextlib.suppress(OSError):  # the listener's end
                main_module.serve_connections(listener, server, Console())

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        first, second = connect(path), connect(path)
        first.call("CreateSandbox")
        second.call("CreateSandbox")
        first.close()
        third = connect(path)
        third.call("CreateSandbox")
        blocked = second.refused("ExecProcess")
        assert (blocked.code, blocked.message) == (12, "ExecProcessRequest is blocked")
        assert len(calls) == 3
        for client in (second, third):
            client.close()
        listener.shutdown(socket.SHUT_RDWR)
        serving.join(60)
        assert not serving.is_alive()


def connect(path: str) -> Client:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return Client(connection)


def test_the_host_is_there_when_there_is_something_to_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = threading.Event()
        thread = threading.Thread(target=lambda: (channel.wait_for_host(ours.fileno()), done.set()))
        thread.start()
        assert not done.is_set()
        theirs.sendall(b"x")
        thread.join(10)
        assert done.is_set()


def test_a_hang_up_is_waited_out(tmp_path: Path) -> None:
    """A fifo whose writer left behaves as a port whose host left."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.close(os.open(path, os.O_WRONLY))
    done = threading.Event()
    thread = threading.Thread(target=lambda: (channel.wait_for_host(reader), done.set()))
    thread.start()
    assert not done.is_set()
    writer = os.open(path, os.O_WRONLY)
    os.write(writer, b"x")
    thread.join(10)
    assert done.is_set()
    os.close(writer)
    os.close(reader)

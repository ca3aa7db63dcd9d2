# SPDX-License-Identifier: Apache-2.0
"""Finding the virtio port by name, and waiting for the host."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from sealpod.agent import channel
from sealpod.errors import UnavailableError


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


def test_a_port_that_never_comes() -> None:
    with pytest.raises(UnavailableError) as caught:
        channel.open_port("no.such.port", timeout=0)
    assert caught.value.code == "agent.no-channel"


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

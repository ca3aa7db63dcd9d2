# SPDX-License-Identifier: Apache-2.0
"""Our ends of a process's streams: whole output, and nobody waits for ever."""

from __future__ import annotations

import errno
import fcntl
import os
import pty as pseudo
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from sealpod.agent import stdio
from sealpod.agent.pty import ConsoleSocket, Terminal
from sealpod.agent.stdio import STDERR, STDIN, STDOUT, Stdio
from sealpod.errors import ConflictError, OperationError, UnavailableError, UsageError


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Counts how often an end began to wait."""
    began = threading.Semaphore(0)
    original = stdio.End._wait

    def wait(end: stdio.End, event: int) -> None:
        began.release()
        original(end, event)

    monkeypatch.setattr(stdio.End, "_wait", wait)
    return began


def ended(read: Callable[[], bytes]) -> None:
    with pytest.raises(UsageError, match="read meet eof"):
        read()


def test_a_read_takes_all_there_is_up_to_what_was_asked() -> None:
    streams = Stdio()
    os.write(streams.child[STDOUT], b"a" * 300_000)  # more than a pipe of the usual size holds
    assert len(streams.read(STDOUT, 200_000)) == 200_000
    assert len(streams.read(STDOUT, 1 << 30)) == 100_000
    streams.close_child()
    ended(lambda: streams.read(STDOUT, 10))
    ended(lambda: streams.read(STDERR, 10))
    streams.close()


def test_silent_outputs_take_everything_and_give_nothing() -> None:
    streams = Stdio(silent=True)
    for stream in (STDOUT, STDERR):
        for _ in range(4):  # more than any pipe holds
            assert os.write(streams.child[stream], bytes(stdio.PIPE_SIZE)) == stdio.PIPE_SIZE
        ended(lambda stream=stream: streams.read(stream, 10))  # type: ignore[misc]
    assert streams.write(b"input") == 5
    assert os.read(streams.child[STDIN], 10) == b"input"
    streams.close_child()
    streams.close()


def test_a_terminal_nobody_may_read_takes_everything(pool: ThreadPoolExecutor) -> None:
    master, slave = pseudo.openpty()
    terminal = Terminal(master)
    terminal.drain()
    # Far more than the kernel keeps of an unread terminal.
    done = pool.submit(lambda: sum(os.write(slave, bytes(1000)) for _ in range(500)))
    assert done.result(30) == 500_000
    os.close(slave)
    terminal.close()


def test_an_answer_is_bounded() -> None:
    streams = Stdio()
    assert fcntl.fcntl(streams.child[STDOUT], fcntl.F_GETPIPE_SZ) == stdio.PIPE_SIZE
    os.write(streams.child[STDOUT], b"a" * stdio.PIPE_SIZE)
    assert len(streams.read(STDOUT, 0)) == 1
    assert len(streams.read(STDOUT, 1 << 31)) == stdio.MAX_READ - 1
    streams.close_child()
    streams.close()


def test_closing_wakes_who_reads(pool: ThreadPoolExecutor, waits: threading.Semaphore) -> None:
    """A process that outlives the one the streams were made for keeps them open; removal does not care."""
    streams = Stdio()
    readers = [pool.submit(streams.read, stream, 10) for stream in (STDOUT, STDOUT, STDERR)]
    for _ in readers:
        assert waits.acquire(timeout=60)
    streams.close()
    for reader in readers:
        ended(lambda reader=reader: reader.result(60))  # type: ignore[misc]
    streams.close_child()


def test_closing_wakes_who_writes(pool: ThreadPoolExecutor, waits: threading.Semaphore) -> None:
    streams = Stdio()
    writer: Future[int] = pool.submit(streams.write, b"x" * (1 << 20))
    assert waits.acquire(timeout=60)
    streams.close_stdin()
    with pytest.raises(ConflictError):
        writer.result(60)
    with pytest.raises(ConflictError):
        streams.write(b"more")
    streams.close_child()
    streams.close()


def test_a_write_waits_for_room(pool: ThreadPoolExecutor, waits: threading.Semaphore) -> None:
    streams = Stdio()
    data = os.urandom(500_000)
    writer = pool.submit(streams.write, data)
    assert waits.acquire(timeout=60)
    received = b""
    while len(received) < len(data):
        received += os.read(streams.child[STDIN], 1 << 16)
    assert writer.result(60) == len(data)
    assert received == data
    streams.close_child()
    with pytest.raises(ConflictError, match="closed its input"):
        streams.write(b"x")
    streams.close()


def test_no_descriptor_is_left() -> None:
    before = os.listdir("/proc/self/fd")
    streams = Stdio()
    streams.close_child()
    ended(lambda: streams.read(STDOUT, 1))
    streams.close()
    streams.close()
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(UnavailableError, match="no tty"):
        streams.resize(1, 1)


def test_a_terminal_is_typed_into_read_and_sized() -> None:
    master, slave = pseudo.openpty()
    terminal = Terminal(master)
    terminal.resize(24, 133)
    assert os.get_terminal_size(slave) == (133, 24)
    assert terminal.write(b"typed\n") == 6
    assert os.read(slave, 100) == b"typed\n"
    assert terminal.read(STDERR, 100) == b"typed\r\n"  # the echo
    terminal.close_stdin()
    with pytest.raises(ConflictError):
        terminal.write(b"x")
    os.write(slave, b"last")
    os.close(slave)
    assert terminal.read(STDOUT, 100) == b"last"
    ended(lambda: terminal.read(STDOUT, 100))
    with pytest.raises(UnavailableError):
        terminal.resize(1, 1)
    with pytest.raises(UsageError):
        terminal.resize(1 << 16, 1)
    terminal.close()


def test_closing_a_terminal_wakes_who_reads(pool: ThreadPoolExecutor, waits: threading.Semaphore) -> None:
    master, slave = pseudo.openpty()
    terminal = Terminal(master)
    reader = pool.submit(terminal.read, STDOUT, 1)
    assert waits.acquire(timeout=60)
    terminal.close()
    ended(lambda: reader.result(60))
    os.close(slave)


def test_other_failures_of_a_read_are_not_an_end() -> None:
    end = stdio.End(os.open("/", os.O_RDONLY))
    with pytest.raises(OSError, match="directory") as caught:
        end.read(1)
    assert caught.value.errno == errno.EISDIR
    end.close()


def test_a_console_socket_that_gets_nothing(tmp_path: object) -> None:
    directory = f"{tmp_path}/{'d' * 120}"
    os.mkdir(directory)
    before = os.listdir("/proc/self/fd")
    console = ConsoleSocket(f"{directory}/init.tty")
    with pytest.raises(OperationError) as caught:
        console.receive()
    assert caught.value.code == "container.terminal"
    console.close()
    console.close()
    assert os.listdir(directory) == []
    assert os.listdir("/proc/self/fd") == before

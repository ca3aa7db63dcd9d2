# SPDX-License-Identifier: Apache-2.0
"""The whole program without a pod: start, calls over the socket, its end, and that nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealpod.errors import NotFoundError, SealpodError
from sealpod.sandbox.channel import Channel
from sealpod.shim.arguments import Arguments
from sealpod.shim.log import PIPE_BUF, Log
from sealpod.shim.serve import PROCESS_NAME, context_of
from sealpod.wire import taskapi
from sealpod.wire.taskapi import MESSAGES

SECONDS = 30.0  # for the server to load and to end; reached only when something hangs


class Shim:
    """A shim started as containerd does, in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bundle = home / "bundle"
        self.bundle.mkdir()
        (self.bundle / "config.json").write_text("{}")
        os.mkfifo(self.bundle / "log")
        self.environment = {
            **os.environ,
            "SEALPOD_SHIM_SOCKETS": str(home / "s"),
            "SEALPOD_RUN_DIR": str(home / "run"),
            "TTRPC_ADDRESS": str(home / "nobody.ttrpc"),
        }

    def run(self, action: str) -> bytes:
        words = f"-namespace n -address {self.home}/c.sock -publish-binary /c -id pod1 {action}".split()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "sealpod.shim", "-runtime", "kata-qemu", *words],
            cwd=self.bundle,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=True,
        )
        return done.stdout

    @property
    def pid(self) -> int:
        return int((self.bundle / "shim.pid").read_text())

    @property
    def sockets(self) -> list[str]:
        return os.listdir(self.home / "s")

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """The process is gone when the block and a wait are over."""
        descriptor = os.pidfd_open(self.pid)
        try:
            yield
            assert select.select([descriptor], [], [], SECONDS)[0], "the shim does not end"
        finally:
            os.close(descriptor)


@pytest.fixture
def shim() -> Iterator[Shim]:
    with tempfile.TemporaryDirectory(prefix="sh") as directory:
        shim = Shim(Path(directory))
        yield shim
        with contextlib.suppress(OSError):
            os.kill(shim.pid, signal.SIGKILL)


def call(path: str, method: str, service: str = taskapi.TASK) -> bytes | SealpodError:
    async def run() -> bytes | SealpodError:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, path)
            channel = Channel(connection, "the shim")
            try:
                request = MESSAGES.new(taskapi.METHODS[method][0], id="pod1").encode()
                return await channel.call(service, method, request, seconds=SECONDS)
            except SealpodError as error:
                return error
            finally:
                await channel.close()

    return asyncio.run(run())


def test_from_start_to_shutdown(shim: Shim) -> None:
    printed = shim.run("start").decode()
    assert printed == (shim.bundle / "address").read_text()
    path = printed.removeprefix("unix://")
    for service in (taskapi.TASK, taskapi.TASK_V3):
        assert isinstance(call(path, "Connect", service), NotFoundError)
    with shim.ending():
        assert call(path, "Shutdown") == b""
    assert not shim.sockets
    answer = MESSAGES.decode("DeleteResponse", shim.run(f"-bundle {shim.bundle} delete"))
    assert answer.exit_status == 137
    assert set(os.listdir(shim.home)) == {"bundle", "s"}


def test_the_server_holds_nothing_of_its_starter(shim: Shim) -> None:
    path = shim.run("start").decode().removeprefix("unix://")
    call(path, "Connect")
    proc = Path("/proc") / str(shim.pid)
    assert [os.readlink(proc / "fd" / number) for number in "012"] == [os.devnull] * 3
    assert (proc / "comm").read_text().strip() == PROCESS_NAME
    assert os.getsid(shim.pid) == shim.pid
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    assert int((proc / "oom_score_adj").read_text()) == min(ours + 1, 1000)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(shim: Shim, number: signal.Signals) -> None:
    path = shim.run("start").decode().removeprefix("unix://")
    call(path, "Connect")  # the signal's handlers are there
    with shim.ending():
        os.kill(shim.pid, signal.SIGHUP)
        os.kill(shim.pid, number)
    assert not shim.sockets


def test_delete_kills_a_shim_that_was_stopped(shim: Shim) -> None:
    path = shim.run("start").decode().removeprefix("unix://")
    call(path, "Connect")
    with shim.ending():
        os.kill(shim.pid, signal.SIGSTOP)
        shim.run(f"-bundle {shim.bundle} delete")
    assert not shim.sockets


def test_delete_ends_a_shim_without_a_container(shim: Shim) -> None:
    path = shim.run("start").decode().removeprefix("unix://")
    assert isinstance(call(path, "Connect"), NotFoundError)  # it has loaded
    with shim.ending():
        shim.run(f"-bundle {shim.bundle} delete")


def test_events_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = Arguments(id="a", address="/run/c.sock", bundle="/b", socket="/s")
    monkeypatch.setenv("TTRPC_ADDRESS", "/run/other.ttrpc")
    assert context_of(arguments, "kata").ttrpc_address == "/run/other.ttrpc"
    monkeypatch.delenv("TTRPC_ADDRESS")
    assert context_of(arguments, "kata").ttrpc_address == "/run/c.sock.ttrpc"


def test_the_log_drops_whole_lines_when_nobody_reads(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    log = Log(str(tmp_path), "0123456789abcdef")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        for number in range(1000):
            log.say(f"{number} " + "é\n" * 3000)
        log.debug("not asked for")
        data = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(reader, 65536):
                data += piece
    finally:
        log.close()
        os.close(reader)
    lines = data.splitlines()
    assert 10 < len(lines) < 1000
    assert all(line.startswith(b"sealpod 0123456789ab: ") and len(line) < PIPE_BUF for line in lines)
    log.say("after the end")


def test_a_bundle_without_a_log_is_no_error(tmp_path: Path) -> None:
    Log(str(tmp_path), "x").say("unheard")

# SPDX-License-Identifier: Apache-2.0
"""Run sealpod as a user does, and see what it leaves behind.

Every process started from a :class:`Workplace` carries a mark in its environment, which its children inherit:
that is how a leftover is told from the processes of others on the same machine. Home, temporary and working
directory are the workplace's own, so whatever appears there was made by these commands.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "SEALPOD_TEST_MARK"
# Progress, notes and what a test's container says, which may stand beside an error's one line.
_REMARK = re.compile(r"\[ *\d+\.\d s\] |sealpod: (?!error)|  console \| |  differs from |container: ")
_ERROR = re.compile(
    r"sealpod: error: (?P<cause>.+); (?P<remedy>.+) \[(?P<code>[a-z0-9]+(?:[.-][a-z0-9]+)+)\]"
)
# Where programs drop things. Others drop things there too, so only names that could be ours count.
_SHARED = ("/tmp", "/var/tmp", "/run", "/dev/shm")
_OURS = re.compile(r"sealpod|qemu|qmp|kata|sandbox-")
END_SECONDS = 10.0
FOREIGN_SECONDS = 60.0


@dataclass(frozen=True)
class Process:
    """A running process of a workplace."""

    pid: int
    command: str
    environment: bytes


@dataclass(frozen=True)
class Finished:
    """What a command left: exit status (negative: killed by that signal) and its two outputs."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def verdict(self) -> list[str]:
        """The lines of standard error that are neither progress nor notes."""
        return [line for line in self.stderr.splitlines() if line and not _REMARK.match(line)]

    def error(self) -> re.Match[str]:
        """The one line an error is: cause, remedy and code. Fails when there is more or less."""
        assert len(self.verdict) == 1, self.stderr
        match = _ERROR.fullmatch(self.verdict[0])
        assert match is not None, self.stderr
        return match


class Command:
    """A sealpod command under way. ``with`` ends it in any case."""

    def __init__(self, place: Workplace, arguments: Sequence[str]) -> None:
        self._place = place
        self._stdout = open(place.root / f"stdout-{secrets.token_hex(4)}", "w+b")  # noqa: SIM115 - see __exit__
        self._stderr: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sealpod.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=place.work,
            env=place.environment,
            start_new_session=True,
        )
        # Read whether or not somebody waits for it: a server whose log fills the pipe would stand still.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(END_SECONDS)
        self._stdout.close()
        os.unlink(self._stdout.name)

    @property
    def pid(self) -> int:
        """Of sealpod itself."""
        return self._process.pid

    def until(self, text: str) -> str:
        """Wait for a line of standard error that contains ``text``; the line."""
        while (line := self._lines.get()) is not None:
            self._stderr.append(line)
            if text in line:
                return line
        self._lines.put(None)
        raise AssertionError(f"{text!r} never came:\n{''.join(self._stderr)}")

    def send(self, number: int) -> None:
        """Send a signal to sealpod alone."""
        self._process.send_signal(number)

    def finish(self) -> Finished:
        """Wait for the end, once."""
        self._stderr.extend(iter(self._lines.get, None))
        status = self._process.wait()
        self._stdout.seek(0)
        return Finished(status, self._stdout.read(), "".join(self._stderr))


class Workplace:
    """A private home for commands below ``root``."""

    def __init__(self, root: Path, cache: str) -> None:
        self.root = root
        self.work, self._home, self._temporary = (root / name for name in ("work", "home", "tmp"))
        for directory in (self.work, self._home, self._temporary):
            directory.mkdir(parents=True)
        self._mark = f"{MARK}={secrets.token_hex(16)}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        self.environment = {
            **kept,
            "HOME": str(self._home),
            "TMPDIR": str(self._temporary),
            "SEALPOD_CACHE": cache,
            MARK: self._mark.partition("=")[2],
        }

    def start(self, *arguments: str) -> Command:
        """A sealpod command, under way."""
        return Command(self, arguments)

    def sealpod(self, *arguments: str) -> Finished:
        """A sealpod command, to its end."""
        with self.start(*arguments) as command:
            return command.finish()

    def processes(self) -> list[Process]:
        """What runs at this moment and was started from here."""
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{name}/environ").read_bytes() if name.isdigit() else b""
                if self._mark.encode() in environment:
                    command = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ")
                    found.append(Process(int(name), command.decode(errors="replace").strip(), environment))
        return found

    def find(self, words: str) -> int:
        """The one process whose command line contains ``words``."""
        (process,) = (process for process in self.processes() if words in process.command)
        return process.pid

    def await_end(self) -> None:
        """Wait until nothing started from here runs, where the kernel ends it for us."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(process.pid)
                ended, _, _ = select.select([descriptor], [], [], END_SECONDS)
                os.close(descriptor)
                assert ended, f"still running: {process.command}"

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Fails when the block leaves a process, mount, socket or file behind."""
        before = _Traces.take()
        yield
        # A test that failed may have left something; that is its failure, not this one's.
        leftovers = self.processes()
        for process in leftovers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        assert not leftovers, f"left running: {[process.command for process in leftovers]}"
        assert not (traces := _lasting(before)), f"left behind: {traces}"
        for directory in (self.work, self._home, self._temporary):
            assert not list(directory.iterdir()), f"left in {directory}"


@dataclass(frozen=True)
class _Traces:
    mounts: frozenset[str]
    sockets: frozenset[str]
    entries: frozenset[str]

    @classmethod
    def take(cls) -> _Traces:
        mounts = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
        sockets = (fields[7] for line in lines if len(fields := line.split()) > 7)
        entries = (os.path.join(place, name) for place in _SHARED for name in _listed(place))
        return cls(
            frozenset(mounts),
            frozenset(filter(_OURS.search, sockets)),
            frozenset(filter(_OURS.search, entries)),
        )

    def beyond(self, before: _Traces) -> set[str]:
        """What is here and was not there before."""
        return {
            *(self.mounts - before.mounts),
            *(self.sockets - before.sockets),
            *(self.entries - before.entries),
        }


def _lasting(before: _Traces) -> set[str]:
    """What is new and stays. Others' work on this machine leaves traces too, but takes them away again."""
    deadline = time.monotonic() + FOREIGN_SECONDS
    while (traces := _Traces.take().beyond(before)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return traces


def _listed(directory: str) -> list[str]:
    return os.listdir(directory) if os.path.isdir(directory) else []

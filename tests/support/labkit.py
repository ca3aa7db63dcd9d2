# SPDX-License-Identifier: Apache-2.0
"""An installation of sealpod to test, and pods on it as a user runs them; the e2e fixture ``lab``."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from commandkit import Command, Finished, Workplace

from sealpod.cli.progress import PHASES
from sealpod.sandbox.spec import GuestFiles

MEMORY = "512"  # MiB
T = TypeVar("T")


@dataclass(frozen=True)
class Lab:
    """Where everything is, and how to run pods there. ``registry`` and ``broker`` are HOST:PORT."""

    place: Workplace
    files: GuestFiles
    accelerator: str
    state: str
    ark: str
    registry: str
    broker: str
    database: str

    def image(self, tag: str) -> str:
        """A tag of the repository every image is in."""
        return f"{self.registry}/app:{tag}"

    def arguments(self, image: str, *container: str, kbc: str = "none", **options: str) -> list[str]:
        """`sealpod run`'s arguments; ``options`` (``kernel="/x"``: ``--kernel /x``) replace the usual."""
        if kbc != "none":
            options = {"kbs": self.broker, **options}
        usual = {
            "memory": MEMORY,
            "firmware": self.files.firmware,
            "kernel": self.files.kernel,
            "initrd": self.files.initrd,
            "accelerator": self.accelerator,
            "platform-state": self.state,
            "kbc": kbc,
        }
        words = [word for name, value in {**usual, **options}.items() for word in (f"--{name}", value)]
        return ["run", *words, image, *(["--", *container] if container else [])]

    def start(self, image: str, *container: str, **options: str) -> Command:
        """`sealpod run`, under way."""
        return self.place.start(*self.arguments(image, *container, **options))

    def run(self, image: str, *container: str, **options: str) -> Finished:
        """`sealpod run`, to its end."""
        return self.place.sealpod(*self.arguments(image, *container, **options))

    def reference(self, image: str, kbc: str) -> str:
        """The launch's components as the guest owner records them: JSON."""
        run, *rest = self.arguments(image, kbc=kbc)
        done = self.place.sealpod(run, "--dry-run", "-o", "json", *rest)
        assert done.status == 0, done.stderr
        return done.stdout.decode()

    def broker_set(self, *words: str) -> None:
        """`sealpod kbs ...` on the session's broker."""
        done = self.place.sealpod("kbs", *words, "--database", self.database)
        assert done.status == 0, done.stderr


@contextlib.contextmanager
def serving(place: Workplace, database: Path, *options: str) -> Iterator[tuple[Command, str]]:
    """Another key broker, empty: its process and HOST:PORT. Ended in order, unless it is dead by then."""
    words = ("--listen", "127.0.0.1:0", "--database", f"sqlite:///{database}")
    with place.start("kbs", "serve", *words, *options) as command:
        address = command.until("listening on ").rpartition("listening on ")[2].split()[0].rstrip(",")
        yield command, address
        command.send(signal.SIGTERM)
        command.finish()


def phase(name: str) -> str:
    """The progress line that tells the beginning of a phase."""
    return PHASES[name]


def qemu_script(path: Path, before: str = "", replace: dict[str, str] | None = None) -> str:
    """A QEMU for ``--qemu`` that a hostile host prepared.

    When it is to start a guest it first runs ``before`` (Python) and replaces parts of its arguments. By then
    the inputs have been hashed and the broker has given its session; the measurement comes after.
    """
    real = shutil.which("qemu-system-x86_64")
    path.write_text(
        f"#!/usr/bin/env python3\nimport os, signal, sys\nwords = sys.argv[1:]\n"
        f"if '-S' in words:\n    {before or 'pass'}\n"
        f"    for old, new in {replace or {}!r}.items():\n"
        f"        words = [word.replace(old, new) for word in words]\n"
        f"os.execv({real!r}, [{real!r}, *words])\n"
    )
    path.chmod(0o755)
    return str(path)


@contextlib.contextmanager
def hosted(runner: asyncio.Runner, service: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """An asynchronous service for the length of a synchronous block."""
    value = runner.run(_enter(service))
    try:
        yield value
    finally:
        runner.run(_leave(service))


async def _enter(service: AbstractAsyncContextManager[T]) -> T:
    return await service.__aenter__()


async def _leave(service: AbstractAsyncContextManager[Any]) -> None:
    await service.__aexit__(None, None, None)

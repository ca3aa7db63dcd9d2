# SPDX-License-Identifier: Apache-2.0
"""A model chip and firmware in memory, and a state directory whose slow keys are made once per test run."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from sealpod.platform.model.chip import Chip, make_chip
from sealpod.platform.model.commands import Command, execute
from sealpod.platform.model.firmware import Firmware
from sealpod.platform.model.messages import Request, Response
from sealpod.platform.model.store import StateDirectory, rsa_key
from sealpod.sev.cert import Certificate
from sealpod.sev.policy import Policy
from sealpod.sev.session import Session


class MemoryStore:
    """The firmware's persistent store, in memory."""

    def __init__(self) -> None:
        self.data: bytes | None = None

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        self.data = data

    def erase(self) -> None:
        self.data = None


class BufferMemory:
    """Guest memory from ``base``, in a bytearray."""

    def __init__(self, size: int, base: int = 0) -> None:
        self.base = base
        self.data = bytearray(size)

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, gpa: int, size: int) -> bytes:
        return bytes(self.data[gpa - self.base : gpa - self.base + size])

    def write(self, gpa: int, data: bytes) -> None:
        self.data[gpa - self.base : gpa - self.base + len(data)] = data


@pytest.fixture(scope="session")
def chip() -> Chip:
    return make_chip(random.Random("chip").randbytes, rsa_key)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def memory() -> BufferMemory:
    return BufferMemory(64 * 1024)


@pytest.fixture
def firmware(chip: Chip, store: MemoryStore) -> Firmware:
    """A firmware that has just been powered on."""
    return Firmware(chip, store, random.Random("firmware").randbytes)


@pytest.fixture(scope="session")
def template(chip: Chip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with a chip and no identity."""
    path = tmp_path_factory.mktemp("template") / "platform"
    StateDirectory(str(path))._write("chip", chip.encode())
    return path


@pytest.fixture
def state_dir(template: Path, tmp_path: Path) -> str:
    """A state directory of the test's own."""
    path = tmp_path / "platform"
    shutil.copytree(template, path)
    path.chmod(0o700)
    return str(path)


class Mailbox:
    """Sends commands to a firmware, as the process does, and remembers nothing."""

    def __init__(self, firmware: Firmware, memory: BufferMemory) -> None:
        self.firmware = firmware
        self.memory = memory

    def __call__(self, command: int, parts: dict[str, bytes] | None = None, **values: int) -> Response:
        response = execute(self.firmware, Request(7, int(command), values, parts or {}), self.memory)
        assert response.serial == 7
        return response

    def ok(self, command: int, parts: dict[str, bytes] | None = None, **values: int) -> Response:
        response = self(command, parts, **values)
        assert response.status == 0, response.message
        return response

    @property
    def pdh(self) -> Certificate:
        exported = self.ok(Command.PDH_CERT_EXPORT, pdh_length=2084, chain_length=6252)
        return Certificate.decode(exported.parts["pdh"])

    def session(self, policy: int = 0, *, seed: str = "owner") -> Session:
        """The session of a guest owner who has seen this platform's PDH."""
        return Session.create(self.pdh, Policy(policy), rng=random.Random(seed).randbytes)

    def start(self, session: Session | None = None, *, policy: int = 0, asid: int | None = 1) -> int:
        """LAUNCH_START and, unless ``asid`` is None, ACTIVATE; the handle."""
        owner = {} if session is None else {"godh": session.godh.encode(), "session": session.blob}
        handle = self.ok(Command.LAUNCH_START, owner, policy=policy, handle=0).values["handle"]
        if asid is not None:
            self.ok(Command.ACTIVATE, handle=handle, asid=asid)
        return handle


@pytest.fixture
def mailbox(firmware: Firmware, memory: BufferMemory) -> Mailbox:
    """A mailbox of a firmware in UNINIT."""
    return Mailbox(firmware, memory)


@pytest.fixture
def ready(mailbox: Mailbox) -> Mailbox:
    """A mailbox of a firmware after INIT."""
    mailbox.ok(Command.INIT, flags=0)
    return mailbox

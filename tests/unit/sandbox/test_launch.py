# SPDX-License-Identifier: Apache-2.0
"""The launch order of the sandbox over both platform drivers: one code path, attested and secret injected.

QEMU is scripted and takes what the sandbox would have started it with; the guest is not booted. The broker is
a guest owner in memory who verifies chain, digest and measurement.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ovmfkit import FULL, build_image
from platformkit import SIGNATURE, DeviceDriver, Driver, FakeGuest, ModelDriver
from platformkit import Content as _Content

from sealpod.errors import FirmwareError, LaunchError, OperationError, VerificationError
from sealpod.measure.hashes import HashesTable
from sealpod.platform.port import QemuNeeds
from sealpod.qemu.binary import Qemu
from sealpod.sandbox import launch
from sealpod.sandbox.evidence import Bundle, Evidence
from sealpod.sandbox.host import Host
from sealpod.sandbox.spec import GuestFiles, PodSpec
from sealpod.sandbox.timeline import Observation, Timeline
from sealpod.sev.chain import Chain, verify_chain
from sealpod.sev.measurement import verify_measurement
from sealpod.sev.packet import Packet
from sealpod.sev.policy import Policy
from sealpod.sev.session import Session
from sealpod.sev.status import Status

FLASH = build_image(FULL)
SECRET = b"for this guest only".ljust(32, b"\0")
SECRET_GPA, HASHES_GPA = 0x810000, 0x810C00
RAM = 16 << 20
ES = Policy(5)


class Content(_Content):
    """A guest with the files of the pod: ``table`` is made of them."""

    def __init__(self, table: bytes, vcpus: int) -> None:
        super().__init__(FLASH, vcpus=vcpus)
        object.__setattr__(self, "table", table)

    @property
    def hashes(self) -> bytes:
        return self.table  # type: ignore[attr-defined,no-any-return]


class Owner:
    """The guest owner behind the broker's two calls."""

    def __init__(self, kind: str, policy: Policy) -> None:
        self.kind, self.policy = kind, policy
        self.session: Session | None = None

    def __call__(self, _address: str, _tls: object) -> Owner:
        return self

    async def get_bundle(self, chain: bytes, policy: Policy) -> Bundle:
        decoded = Chain.decode(chain)
        verify_chain(decoded, {decoded.ark.sha256: self.kind})
        self.session = Session.create(decoded.pdh, self.policy, rng=random.Random("owner").randbytes)
        return Bundle(self.session.godh.encode(), self.session.blob, "launch-1")

    async def get_secret(self, launch_id: str, evidence: Evidence, kbc: str, keyset: str) -> Packet:
        assert launch_id == "launch-1"
        assert self.session is not None
        proof = verify_measurement(
            self.session.keys, self.policy, evidence.version, evidence.digest, evidence.measurement
        )
        return proof.pack(SECRET, iv=bytes(16))


class Booted:
    """What is left of the machine for the sandbox."""

    def __init__(self, guest: Any) -> None:
        self.guest = guest
        self.console = self

    def words(self) -> tuple[str, ...]:
        return ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guest, name)


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("launch") / "platform")


@pytest.fixture(params=[ModelDriver, DeviceDriver])
def driver(request: pytest.FixtureRequest) -> Driver:
    made: Driver = request.param()
    return made


@pytest.fixture
def files(tmp_path: Path) -> GuestFiles:
    contents = {"firmware": FLASH, "kernel": b"kernel", "initrd": b"initrd"}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    return GuestFiles(*(str(tmp_path / name) for name in contents))


class Scene:
    """One launch: ``vcpus`` is how many QEMU really has, ``needs`` what it was given."""

    def __init__(self, driver: Driver, files: GuestFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver, self.files = driver, files
        self.vcpus = 2
        self.owner_policy = ES
        self.accelerator = "kvm"
        self.seen = Observation(Timeline())
        self.needs: QemuNeeds | None = None
        self.guest: Any = None
        monkeypatch.setattr(launch, "_boot", self._boot)
        monkeypatch.setattr(launch, "vcpu_signature", self._signature)
        self.signatures_of: list[str] = []
        self.secret = b""
        self.monkeypatch = monkeypatch

    def _signature(self, accelerator: str) -> int:
        self.signatures_of.append(accelerator)
        return SIGNATURE

    async def _boot(self, _machine: object, _seconds: float, _scope: object) -> None:
        return None

    async def run(self, state_dir: str) -> None:
        platform = await self.driver.open(state_dir)
        owner = Owner(platform.kind, self.owner_policy)
        self.monkeypatch.setattr(launch, "Broker", owner)

        @asynccontextmanager
        async def start_machine(_qemu: Qemu, spec: Any) -> AsyncIterator[Booted]:
            self.needs = QemuNeeds(spec.machine, spec.extra, spec.accelerator, spec.confidential)
            assert spec.shares_memory is not spec.confidential
            async with self.started(spec) as guest:
                self.guest = guest
                try:
                    yield Booted(guest)
                finally:
                    self.secret = guest.ram(SECRET_GPA, len(SECRET))

        self.monkeypatch.setattr(launch, "start_machine", start_machine)
        host = Host(platform, Qemu("/qemu", (7, 2)), self.accelerator)
        spec = PodSpec(self.files, ES, kbc="offline", kbs="127.0.0.1:1", cpus=2, memory=512)
        try:
            async with launch.launch_guest(host, spec, self.seen):
                assert (await platform.status()).guest_count == 1
            assert (await platform.status()).guest_count == 0
        finally:
            assert (await platform.status()).guest_count == 0
            await platform.close()

    @asynccontextmanager
    async def started(self, spec: Any) -> AsyncIterator[Any]:
        table = HashesTable.of(b"kernel", b"initrd", spec.cmdline).encode()
        content = Content(table, self.vcpus)
        if isinstance(self.driver, ModelDriver):
            guest = FakeGuest(content, ram=RAM)
            yield guest
            guest.close()
            return
        assert isinstance(self.driver, DeviceDriver)
        assert self.needs is not None
        guest = self.driver.start(self.needs, content, ram=RAM, table_gpa=HASHES_GPA)
        try:
            yield guest
        finally:
            guest.end()


@pytest.fixture
def scene(driver: Driver, files: GuestFiles, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(driver, files, monkeypatch)


def test_an_attested_es_guest_gets_its_secret(scene: Scene, state_dir: str) -> None:
    asyncio.run(scene.run(state_dir))
    assert scene.secret == SECRET
    record = scene.seen.record
    assert record is not None
    assert record.platform == scene.driver.name
    components = record.components
    assert (components.mode, components.vcpus, components.signature) == ("seves", 2, SIGNATURE)
    assert scene.signatures_of == ["kvm"]
    assert scene.needs is not None
    assert scene.needs.confidential is (scene.driver.name == "device")


def test_a_guest_with_another_vcpu_gets_nothing(scene: Scene, state_dir: str) -> None:
    scene.vcpus = 3
    with pytest.raises(VerificationError):
        asyncio.run(scene.run(state_dir))
    assert scene.secret == bytes(len(SECRET))


def test_a_session_for_another_policy_is_the_firmwares_refusal_whoever_sends_it(
    scene: Scene, state_dir: str
) -> None:
    scene.owner_policy = Policy(1)
    with pytest.raises(FirmwareError) as caught:
        asyncio.run(scene.run(state_dir))
    assert caught.value.status == Status.BAD_MEASUREMENT


def test_what_needs_kvm_is_not_emulated(scene: Scene, state_dir: str) -> None:
    scene.accelerator = "tcg"
    if scene.driver.name == "model":
        asyncio.run(scene.run(state_dir))
        return
    with pytest.raises(OperationError) as caught:
        asyncio.run(scene.run(state_dir))
    assert caught.value.code == "platform.accelerator"
    assert scene.guest is None


def test_another_failure_of_qemu_stays_qemus(scene: Scene, state_dir: str) -> None:
    failure = LaunchError("QEMU did not start: no such machine", code="launch.qemu")

    @asynccontextmanager
    async def started(_spec: Any) -> AsyncIterator[Any]:
        raise failure
        yield

    scene.started = started  # type: ignore[method-assign,assignment]
    with pytest.raises(LaunchError) as caught:
        asyncio.run(scene.run(state_dir))
    assert caught.value is failure

# SPDX-License-Identifier: Apache-2.0
"""A launch in which the guest's owner types commands: only files and base64 pass between owner and host.

Every driver must take the files of ``sealpod sev session``, answer what ``measurement build`` calculates, and
open what ``secret build`` made.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from uuid import UUID

import pytest
from platformkit import Content, Driver
from platformplace import CONTENT, SECRET_GPA, opened, refused, spec_of

from sealpod.cli.main import dispatch
from sealpod.platform.port import LaunchSpec, Measured
from sealpod.sev.packet import Packet
from sealpod.sev.policy import Policy
from sealpod.sev.status import Status
from sealpod.wire import secrettable

GUID = "736869e5-84f0-4973-92ec-06879ce3da0b"
PASSPHRASE = b"for this guest only"


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The owner's directory, with what the guest is made of."""
    monkeypatch.chdir(tmp_path)
    for name, data in {
        "ovmf": CONTENT.flash,
        "kernel": CONTENT.kernel,
        "initrd": b"initrd",
        "passphrase": PASSPHRASE,
    }.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def sev(*words: str) -> None:
    assert dispatch(["sev", *words]) == 0


def session_spec(owner: Path, chain: bytes, policy: int) -> LaunchSpec:
    """The owner verifies the chain and makes a session; the host gets two of the four files."""
    (owner / "chain").write_bytes(chain)
    sev("session", "--ca", "chain", "chain", str(policy), "--force")
    godh, session = (
        base64.b64decode((owner / f"vm_{name}.b64").read_bytes()) for name in ("godh", "session")
    )
    return spec_of(None, policy=Policy(policy), godh=godh, session=session)


def expected(owner: Path, measured: Measured, policy: int, *vcpus: str) -> bytes:
    """What the owner calculates for the platform's version and nonce."""
    (owner / "answer").write_bytes(measured.measurement.encode())
    version = measured.version
    sev(
        "measurement", "build", "--api-major", str(version.api_major), "--api-minor", str(version.api_minor),
        "--build-id", str(version.build), "--policy", str(policy), "--tik", "vm_tik.bin",
        "--launch-measure-blob", "answer", "--firmware", "ovmf", "--kernel", "kernel", "--initrd", "initrd",
        "--cmdline", "command line", *vcpus, "--outfile", "expected",
    )  # fmt: skip
    return (owner / "expected").read_bytes()


def packet(owner: Path) -> Packet:
    keys = ("--tik", "vm_tik.bin", "--tek", "vm_tek.bin", "--launch-measure-blob", "expected")
    sev("secret", "build", *keys, "--secret", f"{GUID}:passphrase", "header", "payload")
    return Packet((owner / "header").read_bytes(), (owner / "payload").read_bytes())


def test_a_launch_by_hand(driver: Driver, state_dir: str, owner: Path) -> None:
    async def main() -> None:
        async with opened(driver, state_dir) as place:
            spec = session_spec(owner, await place.platform.certificate_chain(), 0x18000003)
            async with place.launched(spec) as (launch, guest):
                measured = await launch.measure(guest)
                assert expected(owner, measured, 0x18000003) == measured.measurement.encode()
                sealed = packet(owner)
                await launch.inject(guest, sealed)
                table = guest.ram(SECRET_GPA, len(sealed.data))
                assert secrettable.decode(table) == {UUID(GUID): PASSPHRASE}
                await launch.finish(guest)

    asyncio.run(main())


def test_an_es_launch_by_hand(driver: Driver, state_dir: str, owner: Path) -> None:
    vcpu = (
        "--userspace",
        "qemu",
        "--family",
        "15",
        "--model",
        "107",
        "--stepping",
        "1",
        "--firmware",
        "ovmf",
    )
    sev("vmsa", "build", "cpu0", "--cpu", "0", *vcpu)
    sev("vmsa", "build", "cpu1", "--cpu", "1", *vcpu)

    async def main() -> None:
        async with opened(driver, state_dir) as place:
            spec = session_spec(owner, await place.platform.certificate_chain(), 5)
            async with place.launched(spec, Content(vcpus=3)) as (launch, guest):
                measured = await launch.measure(guest)
                pages = ("--vmsa-cpu0", "cpu0", "--vmsa-cpu1", "cpu1")
                answer = measured.measurement.encode()
                assert expected(owner, measured, 5, "--num-cpus", "2", *pages) != answer
                assert expected(owner, measured, 5, "--num-cpus", "3", *pages) == answer
                await launch.inject(guest, packet(owner))
                await launch.finish(guest)

    asyncio.run(main())


def test_a_packet_for_the_guest_that_was_meant_opens_in_no_other(
    driver: Driver, state_dir: str, owner: Path
) -> None:
    """The owner need not even compare: a packet for his own measurement is refused by any other launch."""

    async def main() -> None:
        async with opened(driver, state_dir) as place:
            spec = session_spec(owner, await place.platform.certificate_chain(), 3)
            changed = Content(flash=bytes([CONTENT.flash[0] ^ 1]) + CONTENT.flash[1:])
            async with place.launched(spec, changed) as (launch, guest):
                measured = await launch.measure(guest)
                assert expected(owner, measured, 3) != measured.measurement.encode()
                assert await refused(launch.inject(guest, packet(owner))) is Status.BAD_MEASUREMENT
                assert not any(guest.ram(SECRET_GPA, 0x400))

    asyncio.run(main())

# SPDX-License-Identifier: Apache-2.0
"""The model against a real, paused QEMU: what it measures is what the files on disk give, and no more.

The guest never runs: this is about who reads flash and RAM. Left out when QEMU, the AmdSev firmware or the
guest image is not on this machine.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path

import pytest

from sealpod.errors import NotFoundError
from sealpod.guestimage import locate
from sealpod.measure.digest import seves_digest
from sealpod.measure.hashes import HashesTable
from sealpod.measure.ovmf import Ovmf
from sealpod.measure.vmsa import vmsa_pages
from sealpod.platform.model import open_model
from sealpod.platform.port import LaunchSpec
from sealpod.qemu.arguments import MachineSpec
from sealpod.qemu.binary import find_qemu
from sealpod.qemu.machine import start_machine
from sealpod.qemu.vcpu import vcpu_signature
from sealpod.sev.chain import Chain
from sealpod.sev.measurement import verify_measurement
from sealpod.sev.policy import Policy
from sealpod.sev.session import Session

CMDLINE = "console=ttyS0 measured"
SECRET = b"only this guest".ljust(32, b"\0")


@pytest.mark.e2e
@pytest.mark.parametrize(("policy", "cpus"), [(Policy(0), 1), (Policy(5), 3)])
def test_a_paused_guest_is_measured_as_its_files_say(tmp_path: Path, policy: Policy, cpus: int) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("QEMU is not installed")
    try:
        image = locate(allow_stale=True)
    except NotFoundError as error:
        pytest.skip(f"no guest image: {error.message}")
    flash = Path(image.firmware).read_bytes()
    areas = Ovmf.parse(flash)
    assert areas.hash_table is not None
    assert areas.secret_block is not None
    kernel, initrd = Path(image.kernel).read_bytes(), Path(image.initrd).read_bytes()
    table = HashesTable.of(kernel, initrd, CMDLINE).encode()
    secret_gpa, hashes_gpa = areas.secret_block.base, areas.hash_table.base
    pages = vmsa_pages(cpus, areas.reset_eip, signature=vcpu_signature("tcg")) if policy.value & 4 else ()
    digest = seves_digest(flash, table, pages)

    async def main() -> None:
        qemu = await find_qemu(None)
        platform = await open_model(str(tmp_path / "platform"))
        try:
            chain = Chain.decode(await platform.certificate_chain())
            session = Session.create(chain.pdh, policy, rng=random.Random("owner").randbytes)
            owner = (session.godh.encode(), session.blob)
            spec = LaunchSpec(
                policy, *owner, table, hashes_gpa, secret_gpa, areas.secret_block.size, len(flash)
            )
            launch = await platform.launch(spec)
            files = (image.firmware, image.kernel, image.initrd)
            machine_spec = MachineSpec("contract", *files, CMDLINE, 256, cpus, "tcg", nics=())
            async with start_machine(qemu, machine_spec) as machine:
                measured = await launch.measure(machine)
                verified = verify_measurement(
                    session.keys, policy, measured.version, digest, measured.measurement
                )
                await launch.inject(machine, verified.pack(SECRET, iv=os.urandom(16)))
                # QEMU and the firmware's process must mean the same memory.
                assert await machine.read_physical(secret_gpa, len(SECRET)) == SECRET
                assert await machine.read_physical(hashes_gpa, len(table)) == table
                await launch.finish(machine)
            await launch.close()
        finally:
            await platform.close()

    asyncio.run(main())

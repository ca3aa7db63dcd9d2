# SPDX-License-Identifier: Apache-2.0
"""The machine on a real QEMU: paused start, what the guest sees, and nothing left behind on any path."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from sealpod.errors import LaunchError, NotFoundError
from sealpod.qemu.acceleration import choose_accelerator
from sealpod.qemu.arguments import MachineSpec
from sealpod.qemu.binary import find_qemu
from sealpod.qemu.machine import start_machine
from sealpod.qemu.vcpu import vcpu_threads

pytestmark = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed")

FLASH_SIZE = 4 << 20


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    """A machine whose flash holds a pattern; kernel and initrd are not read while paused."""
    flash = tmp_path / "flash.fd"
    flash.write_bytes(bytes(i * 7 & 0xFF for i in range(4096)) * (FLASH_SIZE // 4096))
    # QEMU reads the header of a kernel (Linux boot protocol: "HdrS" at 0x202, version, top of the initrd).
    kernel = bytearray(8192)
    kernel[0x202:0x208] = b"HdrS" + (0x020F).to_bytes(2, "little")
    kernel[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    (tmp_path / "kernel").write_bytes(kernel)
    (tmp_path / "initrd").write_bytes(bytes(8192))
    return MachineSpec(
        name="t",
        firmware=str(flash),
        kernel=str(tmp_path / "kernel"),
        initrd=str(tmp_path / "initrd"),
        cmdline="x",
        memory=256,
        cpus=1,
        accelerator="tcg",
    )


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as source:
            return source.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_starts_paused_and_shows_its_flash_and_memory(spec: MachineSpec) -> None:
    async def scenario() -> int:
        async with start_machine(await find_qemu(), spec) as machine:
            assert await machine.status() == "prelaunch"
            flash = await machine.read_physical((1 << 32) - FLASH_SIZE, FLASH_SIZE)
            assert flash == Path(spec.firmware).read_bytes()
            os.pwrite(machine.ram_fd, b"placed by the platform", 0x810C00)
            assert await machine.read_physical(0x810C00, 22) == b"placed by the platform"
            assert await machine.instruction_pointer() == 0xFFF0
            return machine.pid

    pid = asyncio.run(scenario())
    assert not alive(pid)


def test_it_starts_in_a_control_group_and_names_its_processors(spec: MachineSpec, tmp_path: Path) -> None:
    # The kernel's file takes the number of who enters; here a plain one keeps it.
    (tmp_path / "cgroup.procs").touch()
    wanted = replace(spec, cpus=2, cgroup=str(tmp_path))

    async def scenario() -> None:
        async with start_machine(await find_qemu(), wanted) as machine:
            assert (tmp_path / "cgroup.procs").read_text() == f"{machine.pid}\n"
            threads = await vcpu_threads(machine)
            assert len(set(threads)) == 2
            for number, thread in enumerate(threads):
                name = Path(f"/proc/{machine.pid}/task/{thread}/comm").read_text()
                assert name == f"CPU {number}/TCG\n"
            os.kill(machine.pid, signal.SIGKILL)
            await machine.wait()
            with pytest.raises(LaunchError):
                await vcpu_threads(machine)

    asyncio.run(scenario())


def test_it_does_not_start_outside_of_its_control_group(spec: MachineSpec, tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(LaunchError) as error:
            async with start_machine(await find_qemu(), replace(spec, cgroup=str(tmp_path / "none"))):
                pass
        assert "cgroup.procs" in error.value.message

    asyncio.run(scenario())


def test_the_memory_of_a_guest_that_ended_is_given_back(spec: MachineSpec) -> None:
    async def scenario() -> None:
        async with start_machine(await find_qemu(), spec) as machine:
            machine.forget_memory()
            assert os.fstat(machine.ram_fd).st_size == spec.memory << 20
            machine.kill()
            await machine.wait()
            machine.forget_memory()
            assert os.fstat(machine.ram_fd).st_size == 0

    asyncio.run(scenario())


def test_a_refused_command_names_itself_and_not_its_arguments(spec: MachineSpec) -> None:
    async def scenario() -> None:
        async with start_machine(await find_qemu(), spec) as machine:
            with pytest.raises(LaunchError, match="QEMU refused no-such-command") as caught:
                await machine.qmp("no-such-command", {"secret": "planted-secret"})
            assert "planted" not in str(caught.value)

    asyncio.run(scenario())


def test_a_killed_qemu_is_reported_with_its_status(spec: MachineSpec) -> None:
    async def scenario() -> None:
        async with start_machine(await find_qemu(), spec) as machine:
            os.kill(machine.pid, signal.SIGKILL)
            assert await machine.wait() == -signal.SIGKILL
            with pytest.raises(LaunchError, match="QEMU ended with status -9"):
                await machine.qmp("query-status")

    asyncio.run(scenario())


def test_qemus_own_complaint_is_the_error(spec: MachineSpec) -> None:
    from dataclasses import replace

    async def scenario() -> None:
        with pytest.raises(LaunchError, match="no-such-device"):
            async with start_machine(await find_qemu(), replace(spec, extra=("-device", "no-such-device"))):
                pass

    asyncio.run(scenario())


def test_cancelling_ends_qemu(spec: MachineSpec) -> None:
    async def scenario() -> int:
        pids: list[int] = []
        started = asyncio.Event()

        async def hold() -> None:
            async with start_machine(await find_qemu(), spec) as machine:
                pids.append(machine.pid)
                started.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return pids[0]

    assert not alive(asyncio.run(scenario()))


def test_qemu_dies_with_a_killed_parent(spec: MachineSpec) -> None:
    program = textwrap.dedent(f"""
        import asyncio
        from sealpod.qemu.arguments import MachineSpec, Nic
        from sealpod.qemu.binary import find_qemu
        from sealpod.qemu.machine import start_machine
        async def main():
            async with start_machine(await find_qemu(), {spec!r}) as machine:
                print(machine.pid, flush=True)
                await asyncio.Event().wait()
        asyncio.run(main())
    """)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        pid = int(parent.stdout.readline())
        watched = os.pidfd_open(pid)
        parent.kill()
        parent.wait()
    import select

    poll = select.poll()
    poll.register(watched, select.POLLIN)
    assert poll.poll(10_000), "QEMU outlived its parent"
    os.close(watched)


def test_acceleration_is_probed_once_and_remembered(tmp_path: Path) -> None:
    async def scenario() -> tuple[tuple[str, str], tuple[str, str]]:
        qemu = await find_qemu()
        return (
            await choose_accelerator(qemu, str(tmp_path)),
            await choose_accelerator(qemu, str(tmp_path)),
        )

    first, second = asyncio.run(scenario())
    assert first == second
    assert first[0] in ("kvm", "tcg")


def test_a_missing_qemu_names_the_package() -> None:
    with pytest.raises(NotFoundError) as caught:
        asyncio.run(find_qemu("no-such-qemu"))
    assert "qemu-system-x86" in caught.value.remedy

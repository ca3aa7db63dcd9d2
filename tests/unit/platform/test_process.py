# SPDX-License-Identifier: Apache-2.0
"""The model's process and its client: agreement, death, silence, cancellation, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sealpod.errors import AccessError, FirmwareError, OperationError, UnavailableError, UsageError
from sealpod.platform.model import open_model
from sealpod.platform.model.channel import Channel, GuestMemory
from sealpod.platform.model.client import ModelPlatform, start
from sealpod.platform.model.commands import Command
from sealpod.platform.model.messages import Response
from sealpod.platform.model.process import ModelProcess
from sealpod.platform.model.server import FLASH, _unusable
from sealpod.platform.port import LaunchSpec
from sealpod.sev.policy import Policy
from sealpod.sev.status import Status

PLAIN = LaunchSpec(Policy(0), None, None, None, None, None, None, 4096)


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def gone(pid: int) -> bool:
    """Whether the process is neither running nor waiting to be reaped."""
    return not Path(f"/proc/{pid}").exists()


def test_the_identity_survives_a_restart(state_dir: str) -> None:
    async def chain() -> bytes:
        platform = await open_model(state_dir)
        try:
            return await platform.certificate_chain()
        finally:
            await platform.close()

    first = asyncio.run(chain())
    assert len(first) == 11536
    assert asyncio.run(chain()) == first


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    notes: list[str] = []

    async def main() -> list[bytes]:
        directory = str(tmp_path / "platform")
        opening = (start(directory, progress=notes.append) for _ in range(3))
        platforms = await asyncio.gather(*opening)
        chains = [await platform.certificate_chain() for platform in platforms]
        for platform in platforms:
            await platform.close()
        return chains

    first, *others = asyncio.run(main())
    assert others == [first, first]
    assert len(notes) == 1, "the keys are made by one of them only"


def test_processes_that_find_a_chip_and_no_identity_agree(state_dir: str) -> None:
    async def main() -> list[bytes]:
        platforms = await asyncio.gather(*(start(state_dir) for _ in range(3)))
        chains = [await platform.certificate_chain() for platform in platforms]
        for platform in platforms:
            await platform.close()
        return chains

    assert len(set(asyncio.run(main()))) == 1


def test_closing_reaps_the_process_and_its_descriptors(state_dir: str) -> None:
    async def main() -> int:
        platform = await start(state_dir)
        pid = platform.pid
        assert not gone(pid)
        await platform.close()
        await platform.close()
        with pytest.raises(UnavailableError) as caught:
            await platform.status()
        assert caught.value.code == "platform.closed"
        return pid

    before = descriptors()
    assert gone(asyncio.run(main()))
    assert descriptors() == before


def test_the_process_ends_when_its_peer_closes(state_dir: str) -> None:
    process = ModelProcess(state_dir)
    process.socket.setblocking(True)
    assert Response.decode(process.socket.recv(65536)).status == 0
    ending = os.pidfd_open(process.pid)
    try:
        process.socket.shutdown(socket.SHUT_RDWR)
        assert select.select([ending], [], [], 20)[0]
    finally:
        os.close(ending)
        process.close()


PARENT = """
import os, signal, sys, time
from sealpod.platform.model.process import ModelProcess
from sealpod.platform.model.server import _unusable
from sealpod.platform.model.server import FLASH
process = ModelProcess(sys.argv[1])
process.socket.setblocking(True)
process.socket.recv(65536)
# Another process holds the socket too, so that only the parent's death can end the firmware.
os.set_inheritable(process.socket.fileno(), True)
print(process.pid, flush=True)
signal.pause()
"""


def test_the_process_dies_with_its_parent(state_dir: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, state_dir], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    with parent:
        assert parent.stdout is not None
        ending = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            assert select.select([ending], [], [], 20)[0]
        finally:
            os.close(ending)


def test_ctrl_c_is_left_to_the_operator(state_dir: str) -> None:
    async def main() -> None:
        platform = await start(state_dir)
        assert os.getsid(platform.pid) != os.getsid(0)
        await platform.close()

    asyncio.run(main())


def test_a_process_that_died_is_named_and_reaped(state_dir: str) -> None:
    async def main() -> int:
        platform = await start(state_dir)
        launch = await platform.launch(PLAIN)
        os.kill(platform.pid, signal.SIGKILL)
        with pytest.raises(UnavailableError) as caught:
            await platform.status()
        assert "signal SIGKILL" in caught.value.message
        assert caught.value.remedy
        assert gone(platform.pid)
        with pytest.raises(UnavailableError):
            await platform.launch(PLAIN)
        await launch.close()
        await platform.close()
        return platform.pid

    before = descriptors()
    assert gone(asyncio.run(main()))
    assert descriptors() == before


def test_a_process_that_is_silent_is_stopped(state_dir: str) -> None:
    async def main() -> int:
        platform = await start(state_dir)
        os.kill(platform.pid, signal.SIGSTOP)
        impatient = ModelPlatform(Channel(platform._channel.process, command_limit=0.05), platform._asids)
        with pytest.raises(UnavailableError) as caught:
            await impatient.status()
        assert caught.value.code == "platform.silent"
        assert gone(platform.pid)
        await impatient.close()
        await platform.close()
        return platform.pid

    assert gone(asyncio.run(main()))


def test_a_call_under_way_ends_when_the_platform_is_closed(state_dir: str) -> None:
    async def main() -> None:
        platform = await start(state_dir)
        os.kill(platform.pid, signal.SIGSTOP)
        call = asyncio.create_task(platform.status())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await platform.close()
        with pytest.raises(UnavailableError):
            await call
        assert gone(platform.pid)

    asyncio.run(main())


def test_a_cancelled_call_does_not_disturb_the_next(state_dir: str) -> None:
    async def main() -> None:
        platform = await start(state_dir)
        os.kill(platform.pid, signal.SIGSTOP)  # or its answer may be there before the call is cancelled
        call = asyncio.create_task(platform.identifier())
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        os.kill(platform.pid, signal.SIGCONT)
        assert len(await platform.certificate_chain()) == 11536
        assert (await platform.status()).state == 1
        await platform.close()

    asyncio.run(main())


def test_a_cancelled_launch_leaves_no_guest(state_dir: str) -> None:
    async def main() -> None:
        platform = await start(state_dir)
        for turns in range(12):
            call = asyncio.create_task(platform.launch(PLAIN))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await call).close()
            assert (await platform.status()).guest_count == 0
        await platform.close()

    asyncio.run(main())


def test_a_cancelled_start_leaves_no_process(state_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[ModelProcess] = []

    def record(directory: str) -> ModelProcess:
        started.append(ModelProcess(directory))
        return started[-1]

    monkeypatch.setattr("sealpod.platform.model.client.ModelProcess", record)
    before = descriptors()

    async def main() -> None:
        opening = asyncio.create_task(open_model(state_dir))
        # Its first step starts the process and then waits for it.
        await asyncio.sleep(0)
        assert started
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    asyncio.run(main())
    assert gone(started[0].pid)
    assert descriptors() == before


def test_a_corrupt_identity_is_told_once_and_then_replaced(state_dir: str) -> None:
    async def main() -> None:
        await (await open_model(state_dir)).close()
        path = Path(state_dir, "identity")
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(FirmwareError) as caught:
            await open_model(state_dir)
        assert caught.value.status == Status.SECURE_DATA_INVALID
        assert "run the command again" in caught.value.remedy
        await (await open_model(state_dir)).close()

    asyncio.run(main())


def test_a_corrupt_chip_is_told_every_time(state_dir: str) -> None:
    Path(state_dir, "chip").write_bytes(b"garbage")
    for _ in range(2):
        with pytest.raises(FirmwareError) as caught:
            asyncio.run(open_model(state_dir))
        assert caught.value.status == Status.SECURE_DATA_INVALID
        assert "model platform" in caught.value.message
        assert "move" in caught.value.remedy


def test_an_open_directory_is_an_access_error(state_dir: str) -> None:
    os.chmod(state_dir, 0o755)
    with pytest.raises(AccessError):
        asyncio.run(open_model(state_dir))


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FirmwareError) as caught:
        asyncio.run(open_model(str(tmp_path / "file" / "platform")))
    assert caught.value.status == Status.HWERROR_PLATFORM
    assert "--platform-state" in caught.value.remedy


def test_a_directory_this_user_may_not_write_to_is_an_access_error() -> None:
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    # Root may write anywhere, so the error is made here.
    told = _unusable("/var/lib/elsewhere", refused)
    assert isinstance(told, AccessError)
    assert told.code == "platform.state-access"
    assert "Permission denied" in told.message


def test_a_state_directory_that_vanishes_is_told(state_dir: str) -> None:
    async def main() -> None:
        platform = await start(state_dir)
        await platform._channel.call(Command.SHUTDOWN)
        shutil.rmtree(state_dir)
        with pytest.raises(FirmwareError) as caught:
            await platform._channel.call(Command.INIT, {"flags": 0})
        assert caught.value.status == Status.HWERROR_PLATFORM
        await platform.close()

    asyncio.run(main())


def test_garbage_from_the_operator_ends_the_process_with_a_reason(state_dir: str) -> None:
    async def main() -> None:
        platform = await start(state_dir)
        socket.send_fds(platform._channel.process.socket, [b"garbage"], [])
        with pytest.raises(UnavailableError) as caught:
            await platform.status()
        assert "DecodeError" in caught.value.message
        await platform.close()

    asyncio.run(main())


def test_an_unsealed_flash_copy_is_refused(state_dir: str) -> None:
    async def main() -> None:
        platform = await start(state_dir)
        launch = await platform.launch(PLAIN)
        fd = os.memfd_create("flash", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.truncate(fd, 4096)
        values = {"handle": 1, "paddr": (4 << 30) - 4096, "length": 4096}
        with pytest.raises(FirmwareError, match="sealed"):
            await platform._channel.call(Command.LAUNCH_UPDATE_DATA, values, memory=GuestMemory(FLASH, fd))
        os.close(fd)
        await launch.close()
        await platform.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "spec",
    [
        LaunchSpec(Policy(0), bytes(2084), None, None, None, None, None, 4096),
        LaunchSpec(Policy(0), None, bytes(128), None, None, None, None, 4096),
        LaunchSpec(Policy(0), None, None, bytes(176), None, None, None, 4096),
        LaunchSpec(Policy(0), None, None, None, None, None, None, 0),
    ],
)
def test_a_spec_that_cannot_be_launched_is_a_usage_error(state_dir: str, spec: LaunchSpec) -> None:
    async def main() -> None:
        platform = await start(state_dir)
        with pytest.raises(UsageError):
            await platform.launch(spec)
        assert (await platform.status()).guest_count == 0
        await platform.close()

    asyncio.run(main())


def test_no_secret_in_the_process_environment_or_arguments(state_dir: str) -> None:
    async def main() -> None:
        platform = await start(state_dir)
        arguments = Path(f"/proc/{platform.pid}/cmdline").read_bytes().split(b"\0")
        await platform.close()
        secret = Path(state_dir, "chip").read_bytes()[16:48]
        assert all(secret.hex().encode() not in argument for argument in arguments)
        assert arguments[-3:-1] == [b"--fd", arguments[-2]]

    asyncio.run(main())


def test_guest_memory_that_is_closed_is_told(state_dir: str) -> None:
    async def main() -> None:
        platform = await start(state_dir)
        fd = os.memfd_create("closed")
        os.close(fd)
        with pytest.raises(OperationError) as caught:
            await platform._channel.call(Command.DF_FLUSH, memory=GuestMemory(FLASH, fd))
        assert caught.value.code == "platform.guest-memory"
        assert (await platform.status()).state == 1
        await platform.close()

    asyncio.run(main())


async def give_up_often(platform: ModelPlatform) -> None:
    for _ in range(100):
        call = asyncio.create_task(platform._channel.call(Command.DF_FLUSH, parts={"filler": bytes(60_000)}))
        await asyncio.sleep(0)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call


def test_a_standstill_with_callers_that_gave_up_is_noticed(state_dir: str) -> None:
    async def main() -> None:
        platform = await start(state_dir)
        os.kill(platform.pid, signal.SIGSTOP)
        with pytest.raises(UnavailableError) as caught:
            await give_up_often(platform)
        assert caught.value.code == "platform.silent"
        assert gone(platform.pid)
        await platform.close()

    asyncio.run(main())

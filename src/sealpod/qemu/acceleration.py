# SPDX-License-Identifier: Apache-2.0
"""Choose KVM or TCG by running a tiny guest once.

``/dev/kvm`` can exist, answer every ioctl and still not run a guest, so asking it proves nothing. The probe
is a 64 KiB firmware image whose reset vector writes one byte to QEMU's debug-exit port: only a processor
that really ran makes QEMU exit with the agreed status. Before, it executes the instruction the guest's
firmware begins its floating point with and KVM's own interpreter does not know, for there are machines whose
KVM interprets a guest and gives up there. It runs with the CPU model real guests get. The answer is
remembered for this boot of the machine, this QEMU version and this probe.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import Final

from sealpod.errors import UsageError
from sealpod.qemu.arguments import cpu_model
from sealpod.qemu.binary import Qemu
from sealpod.qemu.process import spawn

KVM_DEVICE: Final = "/dev/kvm"
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
IMAGE_SIZE: Final = 65536  # bytes; ends at 4 GiB, where the processor starts
RESET_OFFSET: Final = 0xFFF0
# fwait; mov al, 0x10; out 0xf4, al; hlt; jmp back to hlt
RESET_CODE: Final = bytes.fromhex("9bb010e6f4f4ebfd")
# isa-debug-exit ends QEMU with (value << 1) | 1.
RAN: Final = (0x10 << 1) | 1
PROBE_SECONDS: Final = 10.0
PROBE_FILE: Final = "acceleration.json"


async def choose_accelerator(qemu: Qemu, cache: str, wanted: str = "auto") -> tuple[str, str]:
    """(``kvm`` or ``tcg``, one sentence why). ``cache`` is a directory that may not exist yet.

    ``wanted`` is ``auto``, ``kvm`` or ``tcg``; anything else is a UsageError.
    """
    if wanted in ("kvm", "tcg"):
        return wanted, f"{wanted} was asked for"
    if wanted != "auto":
        raise UsageError(f"unknown accelerator {wanted!r}", remedy="choose auto, kvm or tcg")
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return "tcg", f"{KVM_DEVICE} is absent or not accessible, the guest is emulated"
    works = _remembered(qemu, cache)
    if works is None:
        works = await _probe(qemu)
        _remember(qemu, cache, works)
    if works:
        return "kvm", "a tiny guest ran under KVM"
    return "tcg", f"{KVM_DEVICE} exists but a tiny guest did not run on it, the guest is emulated"


async def _probe(qemu: Qemu) -> bool:
    image = os.memfd_create("sealpod-probe", os.MFD_CLOEXEC)
    try:
        os.ftruncate(image, IMAGE_SIZE)
        os.pwrite(image, RESET_CODE, RESET_OFFSET)
        process = await spawn(
            [
                qemu.path,
                *("-machine", "q35,accel=kvm", "-cpu", cpu_model("kvm"), "-m", "16"),
                *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                *("-bios", f"/proc/self/fd/{image}"),
                *("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"),
            ],
            fds=(image,),
        )
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await process.communicate()
        except TimeoutError:
            return False
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode == RAN
    finally:
        os.close(image)


def _key(qemu: Qemu) -> str:
    with open(BOOT_ID, encoding="ascii") as source:
        boot = source.read().strip()
    return f"{boot} {qemu.path} {qemu.version[0]}.{qemu.version[1]} {RESET_CODE.hex()}"


def _remembered(qemu: Qemu, cache: str) -> bool | None:
    with (
        contextlib.suppress(OSError, ValueError),
        open(os.path.join(cache, PROBE_FILE), encoding="utf-8") as source,
    ):
        answer = json.load(source)
        if isinstance(answer, dict) and answer.get("key") == _key(qemu):
            return bool(answer.get("kvm"))
    return None


def _remember(qemu: Qemu, cache: str, works: bool) -> None:
    # Remembering is a convenience: a cache that cannot be written costs a second next time, no more.
    with contextlib.suppress(OSError):
        os.makedirs(cache, exist_ok=True)
        path = os.path.join(cache, PROBE_FILE)
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as target:
            json.dump({"key": _key(qemu), "kvm": works}, target)
        os.replace(temporary, path)

# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line for one guest. Pure: a specification in, a list of arguments out.

Sockets (QMP, agent channel, console) and guest RAM are inherited file descriptors, so a guest leaves no
file behind whatever ends it. Measured parts: the firmware in pflash unit 0, kernel, initrd and command
line (by the hashes table). QEMU before version 10 patches the kernel's setup header in the item the
firmware would read, which changes its hash; there the unmodified file is offered as ``etc/boot/kernel``.

Without a firmware of its own a guest is a plain virtual machine: QEMU's default firmware boots the kernel
directly, nothing is measured, and RAM is QEMU's private memory rather than a file shared with a platform.

A confidential guest's RAM is private as well: QEMU encrypts and measures it by itself, leaves the kernel it
serves as it is, and makes its virtio devices use the guest's bounce buffers (QEMU 6.0 and later).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from sealpod.errors import UsageError
from sealpod.qemu.binary import Qemu

AGENT_PORT: Final = "agent.channel.0"
EMULATED_CPU: Final = "qemu64,cx16=off," + ",".join(
    f"+{feature}"
    for feature in ("aes", "pclmulqdq", "popcnt", "rdrand", "rdseed", "sse4.1", "sse4.2", "ssse3")
)
# Below this the firmware, a 36 MB kernel with initrd and the guest's tmpfs do not fit.
MINIMUM_MEMORY_MIB: Final = 256
# Above 2 GiB the q35 machine splits RAM, and a file offset is no longer the guest physical address;
# what the platform touches (hashes page, secret) lies below, so larger guests work too.
MAXIMUM_CPUS: Final = 64


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card: QEMU's user network, or a tap that exists in the network namespace QEMU runs in."""

    kind: Literal["user", "tap"] = "user"
    ifname: str = ""
    """Of the tap."""
    mac: str = ""
    """Hardware address inside the guest; empty means QEMU's default."""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a guest is made of. ``memory`` in MiB; paths are absolute; ``extra`` comes from the platform."""

    name: str
    firmware: str
    """Empty: a plain machine with QEMU's default firmware."""
    kernel: str
    initrd: str
    cmdline: str
    memory: int
    cpus: int
    accelerator: str
    nics: tuple[Nic, ...] = (Nic(),)
    netns: str = ""
    """Path of the network namespace QEMU runs in; empty means ours."""
    cgroup: str = ""
    """Directory of the control group QEMU starts in; empty means ours."""
    vsock: bool = False
    """The agent listens on vsock; otherwise on a virtio-serial port."""
    machine: tuple[str, ...] = ()
    """More properties of ``-machine``, from the platform."""
    confidential: bool = False
    """QEMU launches the guest on an SEV firmware by itself."""
    hidden_registers: bool = False
    """What QEMU shows of the running guest's registers is old."""
    extra: tuple[str, ...] = ()

    @property
    def shares_memory(self) -> bool:
        """RAM is a file that the platform maps too."""
        return bool(self.firmware) and not self.confidential


@dataclass(frozen=True, slots=True)
class Descriptors:
    """File descriptor numbers as QEMU sees them; -1 where the machine has none."""

    ram: int
    qmp: int
    agent: int
    console: int
    vhost: int = -1
    """``/dev/vhost-vsock``, which holds the reservation of ``cid``."""
    cid: int = 0


def build_arguments(qemu: Qemu, spec: MachineSpec, fds: Descriptors) -> list[str]:
    """The argument vector, program first. Raises UsageError for sizes QEMU cannot give."""
    if spec.memory < MINIMUM_MEMORY_MIB:
        raise UsageError(
            f"{spec.memory} MiB of memory is too little for a guest",
            code="qemu.memory",
            remedy=f"give at least {MINIMUM_MEMORY_MIB} MiB",
        )
    if not 1 <= spec.cpus <= MAXIMUM_CPUS:
        raise UsageError(
            f"{spec.cpus} CPUs cannot be given to a guest",
            code="qemu.cpus",
            remedy=f"give 1 to {MAXIMUM_CPUS}",
        )
    return [
        qemu.path,
        *("-name", f"{spec.name},debug-threads=on"),
        *("-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-S"),
        *_machine(spec, fds),
        *_boot(qemu, spec),
        *_channels(spec, fds),
        *_devices(spec),
        *spec.extra,
    ]


def _machine(spec: MachineSpec, fds: Descriptors) -> list[str]:
    backend, memory = "", []
    if spec.shares_memory:
        backend = "memory-backend=ram,"
        file = f"size={spec.memory}M,share=on,mem-path=/proc/self/fd/{fds.ram}"
        memory = ["-object", f"memory-backend-file,id=ram,{file}"]
    return [
        *("-machine", ",".join((f"q35,accel={spec.accelerator},{backend}smm=off,vmport=off", *spec.machine))),
        *("-cpu", cpu_model(spec.accelerator)),
        *("-m", f"{spec.memory}M"),
        *memory,
        *("-smp", f"{spec.cpus},cores=1,threads=1,sockets={spec.cpus},maxcpus={spec.cpus}"),
        *("-rtc", "base=utc"),
    ]


def cpu_model(accelerator: str) -> str:
    """The CPU model: the host's under KVM, a plain one with the useful instructions under TCG.

    What newer processors add is dear to emulate: AVX, string instructions that claim to be fast (ERMS), SMAP
    and five-level paging make a boot a sixth longer. And cmpxchg16b of QEMU 7.2 leaves stale flags behind: an
    interrupt right after it returns to a processor with random RFLAGS, which panics the guest's kernel now
    and then. The price: images built for x86-64-v2 and above do not run emulated.
    """
    return "host,pmu=off" if accelerator == "kvm" else EMULATED_CPU


def _boot(qemu: Qemu, spec: MachineSpec) -> list[str]:
    arguments = ["-kernel", spec.kernel, "-initrd", spec.initrd, "-append", spec.cmdline]
    if not spec.firmware:
        return arguments
    arguments += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_escape(spec.firmware)}"]
    if not qemu.serves_kernel_unmodified and not spec.confidential:
        arguments += ["-fw_cfg", f"name=etc/boot/kernel,file={_escape(spec.kernel)}"]
    return arguments


def _channels(spec: MachineSpec, fds: Descriptors) -> list[str]:
    common = [
        *("-chardev", f"socket,id=qmp,fd={fds.qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={fds.console}", "-serial", "chardev:console"),
    ]
    if spec.vsock:
        return [*common, "-device", f"vhost-vsock-pci,vhostfd={fds.vhost},guest-cid={fds.cid}"]
    return [
        *common,
        *("-device", "virtio-serial-pci,id=serial0"),
        *("-chardev", f"socket,id=agent,fd={fds.agent}"),
        *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
    ]


def _devices(spec: MachineSpec) -> list[str]:
    arguments = [
        *("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"),
    ]
    for number, nic in enumerate(spec.nics):
        name = f"net{number}"
        backend = f"user,id={name}"
        if nic.kind == "tap":
            backend = f"tap,id={name},ifname={_escape(nic.ifname)},script=no,downscript=no"
        mac = f",mac={nic.mac}" if nic.mac else ""
        arguments += ["-netdev", backend, "-device", f"virtio-net-pci,netdev={name},romfile={mac}"]
    return arguments


def _escape(path: str) -> str:
    # In QEMU's key=value lists a comma is written twice.
    return path.replace(",", ",,")

# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line: what is measured is there once, and files of the guest are nowhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sealpod.errors import OperationError, UsageError
from sealpod.qemu.arguments import Descriptors, MachineSpec, Nic, build_arguments
from sealpod.qemu.binary import Qemu, parse_version

SPEC = MachineSpec(
    name="sandbox-1",
    firmware="/fw/OVMF,new.fd",
    kernel="/g/vmlinuz",
    initrd="/g/initrd.img",
    cmdline="console=ttyS0 quiet",
    memory=512,
    cpus=2,
    accelerator="tcg",
    extra=("-object", "sev-guest,id=sev0"),
)
FDS = Descriptors(ram=5, qmp=6, agent=7, console=8)
OLD = Qemu("/usr/bin/qemu-system-x86_64", (7, 2))


def values(arguments: list[str], option: str) -> list[str]:
    return [arguments[i + 1] for i, word in enumerate(arguments) if word == option]


def test_measured_parts_are_given_once() -> None:
    arguments = build_arguments(OLD, SPEC, FDS)
    assert values(arguments, "-kernel") == ["/g/vmlinuz"]
    assert values(arguments, "-initrd") == ["/g/initrd.img"]
    assert values(arguments, "-append") == ["console=ttyS0 quiet"]
    assert values(arguments, "-drive") == ["if=pflash,unit=0,format=raw,readonly=on,file=/fw/OVMF,,new.fd"]
    assert arguments[-2:] == ["-object", "sev-guest,id=sev0"]


def test_guest_starts_paused_and_ends_on_reboot() -> None:
    arguments = build_arguments(OLD, SPEC, FDS)
    assert "-S" in arguments
    assert "-no-reboot" in arguments
    assert "-nodefaults" in arguments


def test_old_qemu_offers_the_unmodified_kernel_and_new_qemu_does_it_itself() -> None:
    item = "name=etc/boot/kernel,file=/g/vmlinuz"
    assert item in values(build_arguments(OLD, SPEC, FDS), "-fw_cfg")
    assert values(build_arguments(Qemu("q", (10, 0)), SPEC, FDS), "-fw_cfg") == []


def test_memory_and_channels_are_inherited_descriptors() -> None:
    text = " ".join(build_arguments(OLD, SPEC, FDS))
    assert "mem-path=/proc/self/fd/5" in text
    assert "socket,id=qmp,fd=6" in text
    assert "socket,id=agent,fd=7" in text
    assert "socket,id=console,fd=8" in text
    assert "path=" not in text.replace("mem-path=", "")


def test_network_can_be_left_out() -> None:
    assert values(build_arguments(OLD, replace(SPEC, nics=()), FDS), "-netdev") == []


def test_a_tap_has_the_hardware_address_the_guest_is_to_have() -> None:
    taps = (
        Nic("tap", ifname="tap0_kata", mac="02:00:00:00:00:01"),
        Nic("tap", ifname="tap1_kata", mac="02:00:00:00:00:02"),
    )
    arguments = build_arguments(OLD, replace(SPEC, nics=taps), FDS)
    assert values(arguments, "-netdev") == [
        "tap,id=net0,ifname=tap0_kata,script=no,downscript=no",
        "tap,id=net1,ifname=tap1_kata,script=no,downscript=no",
    ]
    assert "virtio-net-pci,netdev=net1,romfile=,mac=02:00:00:00:00:02" in values(arguments, "-device")


def test_a_plain_machine_has_no_firmware_of_its_own_and_private_memory() -> None:
    arguments = build_arguments(OLD, replace(SPEC, firmware=""), FDS)
    assert values(arguments, "-drive") == []
    assert values(arguments, "-fw_cfg") == []
    assert not any("memory-backend" in word for word in arguments)
    assert values(arguments, "-kernel") == ["/g/vmlinuz"]


def test_vsock_takes_the_place_of_the_serial_port() -> None:
    fds = Descriptors(ram=5, qmp=6, agent=-1, console=8, vhost=9, cid=1234)
    arguments = build_arguments(OLD, replace(SPEC, vsock=True), fds)
    assert "vhost-vsock-pci,vhostfd=9,guest-cid=1234" in values(arguments, "-device")
    assert not any("virtserialport" in word for word in arguments)


@pytest.mark.parametrize(
    ("change", "code"),
    [({"memory": 128}, "qemu.memory"), ({"cpus": 0}, "qemu.cpus"), ({"cpus": 65}, "qemu.cpus")],
)
def test_sizes_no_guest_can_have_are_refused(change: dict[str, int], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_arguments(OLD, replace(SPEC, **change), FDS)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value.remedy


def test_version_is_read_from_the_first_line() -> None:
    assert parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)") == (7, 2)
    with pytest.raises(OperationError):
        parse_version("bash: no such thing")

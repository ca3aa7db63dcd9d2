# SPDX-License-Identifier: Apache-2.0
"""QEMU's side of the device driver: command line, answers, files; and what the processor says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platformkit import Content, DeviceDriver
from platformplace import PLAIN, opened, spec_of
from sevqemu import SCHEMA, STATES

from sealpod.errors import DecodeError, FirmwareError, OperationError
from sealpod.platform.device import cpuid, replies
from sealpod.platform.device.cpuid import Encryption, encryption, host_cpuid
from sealpod.platform.device.launchfiles import LaunchFiles, remove_stale
from sealpod.platform.device.properties import sev_guest
from sealpod.qemu.arguments import Descriptors, MachineSpec, build_arguments
from sealpod.qemu.binary import Qemu, parse_version
from sealpod.sev.policy import Policy
from sealpod.sev.status import Status

HOST = Encryption(sev=True, es=True, cbitpos=51, reduced=5, guests=509, min_sev_asid=100)
OLD, NEW = (7, 2), (9, 1)
FILES = ("/run/x/godh.b64", "/run/x/session_file.b64")


def command_line(policy: int, qemu: tuple[int, int] = OLD) -> list[str]:
    needs = sev_guest(Policy(policy), HOST, qemu, files=FILES, kernel_hashes=True)
    spec = MachineSpec(
        name="sandbox-1",
        firmware="/FW",
        kernel="/K",
        initrd="/I",
        cmdline="S",
        memory=512,
        cpus=2,
        accelerator=needs.accelerator,
        machine=needs.machine,
        confidential=needs.confidential,
        extra=needs.arguments,
    )
    return build_arguments(Qemu("/usr/bin/qemu-system-x86_64", qemu), spec, Descriptors(-1, 6, 7, 8))


def after(arguments: list[str], flag: str) -> list[str]:
    return [arguments[place + 1] for place, word in enumerate(arguments) if word == flag]


@pytest.mark.parametrize("policy", [1, 3, 5])
def test_the_command_line_is_kata_s_for_sev_and_sev_es(policy: int) -> None:
    """Kata CC-0.3.0's, apart from where the files are::

    -machine q35,accel=kvm,kernel_irqchip=split,confidential-guest-support=sev -cpu host,pmu=off
    -object sev-guest,id=sev,cbitpos=C,reduced-phys-bits=R,policy=P,
            dh-cert-file=...,session-file=...,kernel-hashes=on
    -drive if=pflash,format=raw,readonly=on,file=FW -kernel K -initrd I -append S -S
    """
    arguments = command_line(policy)
    (machine,) = after(arguments, "-machine")
    assert machine.split(",")[0] == "q35"
    assert {"accel=kvm", "kernel_irqchip=split", "confidential-guest-support=sev"} <= set(machine.split(","))
    assert after(arguments, "-cpu") == ["host,pmu=off"]
    sev = (
        f"sev-guest,id=sev,cbitpos=51,reduced-phys-bits=5,policy={policy},"
        "dh-cert-file=/run/x/godh.b64,session-file=/run/x/session_file.b64,kernel-hashes=on"
    )
    assert sev in after(arguments, "-object")
    (drive,) = after(arguments, "-drive")
    assert {"if=pflash", "format=raw", "readonly=on", "file=/FW"} <= set(drive.split(","))
    for flag, value in (("-kernel", "/K"), ("-initrd", "/I"), ("-append", "S")):
        assert after(arguments, flag) == [value]
    assert "-S" in arguments
    assert after(arguments, "-smp") == ["2,cores=1,threads=1,sockets=2,maxcpus=2"]


def test_memory_is_private_and_the_kernel_is_served_once() -> None:
    arguments = command_line(1)
    assert not any("memory-backend" in word for word in arguments)
    assert after(arguments, "-fw_cfg") == []


@pytest.mark.parametrize(("policy", "qemu", "said"), [(5, OLD, 0), (5, NEW, 1), (1, NEW, 0), (5, (10, 0), 1)])
def test_newer_qemus_are_told_the_vm_type_of_sev_es(policy: int, qemu: tuple[int, int], said: int) -> None:
    assert " ".join(command_line(policy, qemu)).count("legacy-vm-type=on") == said


def test_an_es_guests_registers_are_hidden() -> None:
    for policy in (1, 5):
        needs = sev_guest(Policy(policy), HOST, OLD, files=None, kernel_hashes=True)
        assert needs.hidden_registers is bool(policy & 4)


def test_what_is_not_there_is_not_said() -> None:
    needs = sev_guest(Policy(0), HOST, OLD, files=None, kernel_hashes=False, device="/dev/a,b")
    assert needs.arguments[1].endswith("policy=0,sev-device=/dev/a,,b")


def sev_info(**changes: object) -> dict[str, object]:
    usual: dict[str, object] = {
        "enabled": True,
        "api-major": 0,
        "api-minor": 24,
        "build-id": 15,
        "state": "launch-secret",
        "policy": 5,
        "handle": 1,
    }
    return usual | changes


@pytest.mark.parametrize("extra", [{}, {"sev-type": "sev"}])
def test_both_shapes_of_query_sev_are_read(extra: dict[str, str]) -> None:
    info = replies.sev_info(sev_info(**extra))
    assert (info.enabled, info.state, info.policy.value, info.handle) == (True, "launch-secret", 5, 1)
    assert (info.version.api_major, info.version.api_minor, info.version.build) == (0, 24, 15)


BAD: list[object] = [
    None,
    [],
    {},
    {"sev-type": "sev-snp", "snp-policy": 0x30000, "enabled": True, "state": "launch-secret"},
    sev_info(state="launched"),
    sev_info(enabled=1),
    sev_info(**{"api-minor": 256}),
    sev_info(**{"api-minor": True}),
    sev_info(policy=1 << 32),
    sev_info(policy="5"),
    sev_info(handle=-1),
]


@pytest.mark.parametrize("reply", BAD)
def test_any_other_answer_is_malformed(reply: object) -> None:
    with pytest.raises(DecodeError):
        replies.sev_info(reply)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.one_of(JSON, st.dictionaries(st.sampled_from(["data", "pdh", "state", "enabled", "cbitpos"]), JSON))
)
def test_whatever_qemu_says_ends_in_a_value_or_decode_error(reply: Any) -> None:
    for read in (replies.sev_info, replies.capabilities, replies.measurement, replies.report):
        with contextlib.suppress(DecodeError):
            read(reply)


def test_capabilities_come_with_and_without_the_chips_identifier() -> None:
    reply: dict[str, object] = {
        "pdh": base64.b64encode(b"p" * 2084).decode(),
        "cert-chain": base64.b64encode(b"c" * 6252).decode(),
        "cbitpos": 51,
        "reduced-phys-bits": 1,
    }
    assert replies.capabilities(reply).identifier is None
    found = replies.capabilities(reply | {"cpu0-id": base64.b64encode(b"i" * 64).decode()})
    assert (found.identifier, found.cbitpos, found.reduced) == (b"i" * 64, 51, 1)
    assert (found.pdh, found.chain) == (b"p" * 2084, b"c" * 6252)


def told_by_qemu(*commands: dict[str, Any]) -> list[Any]:
    """This machine's QEMU's answers, without a machine of its own."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = ["-machine", "none", "-nodefaults", "-display", "none"]
        monitor = ["-chardev", f"socket,id=q,fd={theirs.fileno()}", "-mon", "chardev=q,mode=control"]
        command = ["qemu-system-x86_64", *words, *monitor]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process, ours.makefile("rw") as channel:
            theirs.close()
            for one in ({"execute": "qmp_capabilities"}, *commands, {"execute": "quit"}):
                channel.write(json.dumps(one))
                channel.flush()
            answers = [json.loads(line) for line in channel if '"return"' in line]
            process.wait()
    return [answer["return"] for answer in answers[1:-1]]


needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed")


@needs_qemu
def test_the_recorded_schema_is_this_machine_s_qemu_s_own() -> None:
    (entries,) = told_by_qemu({"execute": "query-qmp-schema"})
    schema = {entry["name"]: entry for entry in entries}

    def members(name: str) -> dict[str, str]:
        entry, kinds = schema[name], {}
        found = [member for member in entry.get("members", []) if member["name"] != entry.get("tag")]
        for variant in entry.get("variants", []):  # query-sev from QEMU 9.1 on
            assert entry["tag"] == "sev-type"
            found += schema[variant["type"]]["members"] if variant["case"] == "sev" else []
        for member in found:
            kind = schema[member["type"]]
            kinds[member["name"]] = {"builtin": member["type"], "enum": "enum"}[kind["meta-type"]]
            kinds[member["name"]] += "?" if "default" in member else ""
            if kind["meta-type"] == "enum":
                assert [value["name"] for value in kind["members"]] == STATES == list(replies.STATES)
        return kinds

    for command, (arguments, answer) in SCHEMA.items():
        entry = schema[command]
        assert members(entry["arg-type"]) == arguments
        assert members(entry["ret-type"]) == answer


@needs_qemu
@pytest.mark.parametrize("policy", [1, 5])
def test_this_machine_s_qemu_has_every_property_it_is_given(policy: int) -> None:
    command = {"execute": "qom-list-properties", "arguments": {"typename": "sev-guest"}}
    (listed,) = told_by_qemu(command)
    told = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True)
    needs = sev_guest(Policy(policy), HOST, parse_version(told.stdout), files=FILES, kernel_hashes=True)
    _, *pairs = needs.arguments[1].split(",")
    given = {pair.partition("=")[0] for pair in pairs} - {"id"}
    assert {"cbitpos", "kernel-hashes"} < given
    assert given <= {one["name"] for one in listed}


def test_the_owners_files_are_base64_private_and_gone_afterwards() -> None:
    files = LaunchFiles(b"g" * 2084, b"s" * 128)
    for path, data in ((files.godh, b"g" * 2084), (files.session, b"s" * 128)):
        assert base64.b64decode(Path(path).read_bytes(), validate=True) == data
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(files.directory).st_mode) == 0o700
    remove_stale()
    assert os.path.exists(files.session), "in use"
    files.close()
    files.close()
    assert not os.path.exists(files.directory)


def test_what_a_killed_process_left_is_removed() -> None:
    files = LaunchFiles(b"", b"")
    os.close(files._fd)  # the lock goes with the process
    files._fd = -1
    assert os.path.exists(files.directory)
    remove_stale()
    assert not os.path.exists(files.directory)


def test_a_directory_taken_for_one_that_was_left_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = tempfile.mkdtemp

    def taken(**words: str) -> str:
        made.append(make(**words))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", taken)
    files = LaunchFiles(b"g", b"s")
    assert len(made) == 2
    assert files.directory == made[1]
    files.close()


def test_a_place_that_takes_no_files_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(OperationError) as caught:
        LaunchFiles(b"g", b"s")
    assert caught.value.code == "platform.launch-files"
    assert str(tmp_path) in caught.value.message


def leaf(eax: int = 0b1010, ebx: int = 51 | 5 << 6, ecx: int = 509, edx: int = 100) -> cpuid.Cpuid:
    return lambda number: (0x8000001F, 0, 0, 0) if number == 0x80000000 else (eax, ebx, ecx, edx)


def test_the_processor_says_where_the_c_bit_is() -> None:
    assert encryption(leaf()) == HOST
    assert encryption(leaf(eax=0b0010)).es is False


@pytest.mark.parametrize("asked", [leaf(eax=1), lambda _: (0x80000008, 0, 0, 0)])
def test_a_processor_without_sev_is_told_of(asked: cpuid.Cpuid) -> None:
    with pytest.raises(OperationError) as caught:
        encryption(asked)
    assert caught.value.code == "platform.no-sev"


def test_cpuid_is_the_processors_own() -> None:
    _, ebx, ecx, edx = host_cpuid(0)
    vendor = b"".join(register.to_bytes(4, "little") for register in (ebx, edx, ecx)).decode()
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as source:
        assert f"vendor_id\t: {vendor}\n" in source.read()


def test_without_executable_memory_the_kernel_is_asked(tmp_path: Path) -> None:
    device = tmp_path / "cpuid"
    device.write_bytes(bytes(0x20) + bytes(range(16)))
    assert cpuid._asked(0x20, str(device)) == (0x03020100, 0x07060504, 0x0B0A0908, 0x0F0E0D0C)
    for leaf_number in (0x28, 0x100):
        with pytest.raises(OperationError) as caught:
            cpuid._asked(leaf_number, str(device))
        assert caught.value.code == "platform.cpuid"


def test_the_measurement_is_waited_for_and_commands_come_in_qemus_order(template: Path) -> None:
    driver = DeviceDriver(late=3)

    async def main() -> list[str]:
        async with opened(driver, str(template)) as place:
            spec = spec_of(await place.owner(Policy(5)))
            driver.machine.log.clear()
            async with place.launched(spec, Content(vcpus=2)) as (launch, guest):
                await launch.measure(guest)
                await launch.finish(guest)
                assert guest.asked == [*["query-sev"] * 4, "query-sev-launch-measure", "query-sev"]  # type: ignore[attr-defined]
                guest.cont()  # type: ignore[attr-defined]
            return driver.machine.log

    assert asyncio.run(main()) == [
        "LAUNCH_START",
        "ACTIVATE",
        "LAUNCH_UPDATE_DATA",
        "LAUNCH_UPDATE_DATA",
        "LAUNCH_UPDATE_VMSA",
        "LAUNCH_UPDATE_VMSA",
        "LAUNCH_MEASURE",
        "LAUNCH_FINISH",
        "DEACTIVATE",
        "DF_FLUSH",
        "DECOMMISSION",
    ]


def test_a_guest_that_runs_already_is_no_longer_measured(template: Path) -> None:
    driver = DeviceDriver()

    async def main() -> None:
        async with opened(driver, str(template)) as place, place.launched(PLAIN) as (launch, guest):
            guest.cont()  # type: ignore[attr-defined]
            with pytest.raises(FirmwareError) as caught:
                await launch.measure(guest)
            assert caught.value.status == Status.INVALID_GUEST_STATE

    asyncio.run(main())


def test_files_of_a_refused_launch_do_not_stay(template: Path) -> None:
    driver = DeviceDriver()

    async def main() -> None:
        async with opened(driver, str(template)) as place:
            session = await place.owner()
            launch = await place.platform.launch(spec_of(session, policy=Policy(0)))
            files = launch._files  # type: ignore[attr-defined]
            with pytest.raises(FirmwareError):
                async with driver.guest(place.platform, launch, Content()):
                    pass
            await launch.close()
            assert not os.path.exists(files.directory)

    asyncio.run(main())

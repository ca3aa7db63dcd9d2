# SPDX-License-Identifier: Apache-2.0
"""``sealpod measure`` beyond what the tool it follows can do; ``interop`` compares the rest."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ovmfkit import FULL, build_image

from sealpod.cli import main as cli
from sealpod.cli import measure_input
from sealpod.errors import DecodeError, OperationError, SealpodError, UsageError
from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable
from sealpod.measure.launch import Vcpus, measure_seves, measure_snp
from sealpod.measure.vcpu import named
from sealpod.measure.vmsa import Fpu, Vmm, vmsa_page

IMAGE = build_image(FULL)
KERNEL, INITRD, LINE = b"kernel" * 99, b"initrd" * 99, "console=ttyS0 quiet"
EPYC = named("EPYC-v4")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the guest's files."""
    monkeypatch.chdir(tmp_path)
    for name, data in (("ovmf", IMAGE), ("kernel", KERNEL), ("initrd", INITRD)):
        (tmp_path / name).write_bytes(data)
    return tmp_path


def table() -> HashesTable:
    return HashesTable.of(KERNEL, INITRD, LINE)


def seves(*counts: int, **changes: object) -> list[str]:
    vcpus = Vcpus(counts, EPYC).replace(**changes)
    return [digest.hex() for _, digest in measure_seves(Firmware.of(IMAGE), table, vcpus).digests]


def snp(*counts: int, **changes: object) -> list[str]:
    vcpus = Vcpus(counts, EPYC, features=1, fpu=Fpu.INIT2).replace(**changes)
    return [digest.hex() for _, digest in measure_snp(Firmware.of(IMAGE), table, vcpus).digests]


GUEST = ["--ovmf", "ovmf", "--kernel", "kernel", "--initrd", "initrd", "--vcpu-type", "EPYC-v4"]


def run(mode: str, *arguments: str) -> int:
    return cli.dispatch(["measure", "--mode", mode, *GUEST, "--append", LINE, *arguments])


Captured = pytest.CaptureFixture[str]


@pytest.mark.usefixtures("here")
def test_what_is_measured_when_nothing_is_said(capsys: Captured) -> None:
    """Legacy registers and no features in SEV-ES, init2 and the SNP bit in SEV-SNP."""
    assert run("seves", "--vcpus", "2") == 0
    assert run("snp", "--vcpus", "2") == 0
    assert capsys.readouterr().out.split() == seves(2) + snp(2)


@pytest.mark.usefixtures("here")
def test_what_else_can_be_asked_for(capsys: Captured) -> None:
    run("seves", "--vcpus", "2", "--vmsa-fpu", "init2")
    run("seves", "--vcpus", "2", "--sev-features", "0x20")
    run("snp", "--vcpus", "2", "--vmsa-fpu", "legacy")
    run("snp", "--vcpus", "2", "--sev-features", "0x21")
    run("seves", "--vcpus", "2", "--guest-features", "0x20")
    run("seves", "--vcpus", "2", "--vmm-type", "krun")
    expected = seves(2, fpu=Fpu.INIT2) + seves(2, features=0x20) + snp(2, fpu=Fpu.LEGACY)
    expected += snp(2, features=0x21) + seves(2) + seves(2, vmm=Vmm.KRUN)
    assert capsys.readouterr().out.split() == expected
    assert len(set(expected)) == 6


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("text", "counts"),
    [("1-4", [1, 2, 3, 4]), ("1,4", [1, 4]), ("4,1-2,2", [1, 2, 4]), ("0-1", [0, 1]), (" 2 - 3", [2, 3])],
)
def test_a_digest_for_each_count(text: str, counts: list[int], capsys: Captured) -> None:
    run("snp", "--vcpus", text)
    run("seves", "--vcpus", text)
    lines = capsys.readouterr().out.splitlines()
    expected = list(zip(counts, snp(*counts), strict=True)) + list(zip(counts, seves(*counts), strict=True))
    assert lines == [f"{count} {digest}" for count, digest in expected]


@pytest.mark.usefixtures("here")
def test_several_digests_say_whose_they_are(capsys: Captured) -> None:
    run("seves", "--vcpus", "1-2", "-v")
    one, two = seves(1, 2)
    assert capsys.readouterr().out.splitlines() == [
        f"Calculated SEV_ES guest measurement for 1 vCPUs: {one}",
        f"Calculated SEV_ES guest measurement for 2 vCPUs: {two}",
    ]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("text", ["", "x", "2-1", "1-", "-2", "1,,2", "1-2-3", "0x2", "65537"])
def test_what_is_no_count(text: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        run("snp", f"--vcpus={text}")
    assert caught.value.code == 2
    assert "argument --vcpus: " in capsys.readouterr().err


def test_the_registers_can_be_written_down(here: Path) -> None:
    run("seves", "--vcpus", "1-3", "--dump-vmsa")
    pages = [(here / f"vmsa{vcpu}.bin").read_bytes() for vcpu in range(3)]
    assert pages[0] == vmsa_page(eip=0xFFFFFFF0, signature=EPYC)
    assert pages[1] == pages[2] == vmsa_page(eip=0x80B004, signature=EPYC)
    assert not (here / "vmsa3.bin").exists()


def test_where_registers_cannot_be_written(here: Path) -> None:
    (here / "vmsa0.bin").mkdir()
    with pytest.raises(OperationError) as caught:
        run("seves", "--vcpus", "1", "--dump-vmsa")
    assert caught.value.code == "output.failed"


HASHES = [
    "--kernel-hash",
    hashlib.sha256(KERNEL).hexdigest(),
    "--initrd-hash",
    hashlib.sha256(INITRD).hexdigest(),
    "--append-hash",
    hashlib.sha256(LINE.encode() + b"\0").hexdigest(),
]


@pytest.mark.usefixtures("here")
def test_hashes_in_the_place_of_files(capsys: Captured) -> None:
    for mode in ("sev", "seves", "snp"):
        arguments = ["measure", "--mode", mode, "--ovmf", "ovmf", "--vcpus", "2", "--vcpu-type", "EPYC-v4"]
        assert cli.dispatch([*arguments, *HASHES]) == 0
        run(mode, "--vcpus", "2")
        by_hash, by_file = capsys.readouterr().out.split()
        assert by_hash == by_file


def test_a_firmware_from_its_metadata(here: Path, capsys: Captured) -> None:
    cli.dispatch(["measure", "--mode", "snp:ovmf-hash", "--ovmf", "ovmf", "-o", "json"])
    (here / "fw.json").write_text(capsys.readouterr().out)
    (here / "ovmf").unlink()
    arguments = [
        "measure",
        "--mode",
        "snp",
        "--vcpus",
        "2",
        "--vcpu-type",
        "EPYC-v4",
        "--ovmf-metadata",
        "fw.json",
    ]
    assert cli.dispatch([*arguments, *HASHES]) == 0
    assert capsys.readouterr().out.split() == snp(2)
    for mode in ("sev", "seves"):
        with pytest.raises(UsageError) as caught:
            cli.dispatch([word.replace("snp", mode) for word in arguments])
        assert caught.value.code == "measure.firmware"


def test_metadata_of_sev_needs_the_hash_too(here: Path, capsys: Captured) -> None:
    run("sev", "-o", "json")
    (here / "fw.json").write_text(capsys.readouterr().out)
    arguments = [
        "measure",
        "--mode",
        "snp",
        "--vcpus",
        "1",
        "--vcpu-type",
        "EPYC",
        "--ovmf-metadata",
        "fw.json",
    ]
    with pytest.raises(UsageError) as caught:
        cli.dispatch(arguments)
    assert caught.value.code == "measure.firmware"
    assert cli.dispatch([*arguments, "--ovmf-hash", Firmware.of(IMAGE).snp_hash().hex()]) == 0


@pytest.mark.usefixtures("here")
def test_a_firmware_and_its_metadata_exclude_each_other() -> None:
    with pytest.raises(UsageError) as caught:
        run("snp", "--vcpus", "1", "--ovmf-metadata", "ovmf")
    assert caught.value.code == "measure.firmware"


@contextmanager
def stdin(data: bytes) -> Iterator[None]:
    """Standard input, as a process has it, with these bytes."""
    before = os.dup(0)
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    os.dup2(read, 0)
    os.close(read)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("option", "data"), [("--kernel", KERNEL), ("--initrd", INITRD)])
def test_a_file_from_standard_input(option: str, data: bytes, capsys: Captured) -> None:
    with stdin(data):
        assert run("seves", "--vcpus", "1", option, "-") == 0
    assert capsys.readouterr().out.split() == seves(1)


@pytest.mark.usefixtures("here")
def test_standard_input_is_one_file() -> None:
    with pytest.raises(UsageError) as caught:
        run("sev", "--ovmf", "-", "--kernel", "-")
    assert caught.value.code == "measure.stdin"


def test_json_of_several_counts_is_a_reference(here: Path, capsys: Captured) -> None:
    assert run("snp", "--vcpus", "1-3", "-o", "json", "--policy", "0x30000") == 0
    text = capsys.readouterr().out
    record = json.loads(text)
    assert (record["vcpus"], record["digest"]) == ([1, 2, 3], snp(1, 2, 3))
    assert len(record["trace"]) == 1 + 7 + 3
    (here / "reference.json").write_text(text)
    assert run("snp", "--vcpus", "2", "--explain", "reference.json") == 0
    assert run("snp", "--vcpus", "4", "--explain", "reference.json", "--policy", "0xb0000") == 3
    assert capsys.readouterr().out.splitlines() == [
        "no part differs from the reference",
        "vCPUs differs: is 4, the reference has 3",
        "policy differs: is 0xb0000, the reference has 0x30000",
    ]
    assert run("seves", "--vcpus", "2", "--explain", "reference.json") == 3
    assert "mode differs: is seves, the reference has snp" in capsys.readouterr().out
    with pytest.raises(UsageError):
        run("snp", "--vcpus", "1-2", "--explain", "reference.json")


def test_a_record_of_as_many_sizes_as_there_can_be_is_read_back(here: Path, capsys: Captured) -> None:
    assert run("snp", "--vcpus", "1-4096", "-o", "json") == 0
    (here / "reference.json").write_text(capsys.readouterr().out)
    assert run("snp", "--vcpus", "4000", "--explain", "reference.json") == 0


@pytest.mark.usefixtures("here")
def test_zero_is_a_signature_and_a_family(capsys: Captured) -> None:
    """sev-snp-measure 0.0.13 takes 0 as nothing given; its next version does not."""
    arguments = ["measure", "--mode", "seves", "--ovmf", "ovmf", "--vcpus", "1"]
    assert cli.dispatch([*arguments, "--vcpu-sig", "0"]) == 0
    family = ["--vcpu-family", "0", "--vcpu-model", "0", "--vcpu-stepping", "0"]
    assert cli.dispatch([*arguments, *family]) == 0
    first, second = capsys.readouterr().out.split()
    launch = measure_seves(Firmware.of(IMAGE), None, Vcpus((1,), 0))
    assert first == second == launch.digests[0][1].hex()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("mode", "arguments", "error", "code"),
    [
        ("seves", "", UsageError, "measure.vcpus"),
        ("seves", "--vcpus 1 --vcpu-family 25", UsageError, "measure.vcpu"),
        ("seves", "--vcpus 1 --vcpu-family 25 --vcpu-model 1 --vcpu-stepping -1", UsageError, "measure.vcpu"),
        ("seves", "--vcpus 1 --vcpu-sig 0x10000000000000000", UsageError, "measure.vcpu"),
        ("seves", "--vcpus 1 --sev-features -1", UsageError, "measure.features"),
        ("snp", "--vcpus 1 --guest-features 0x10000000000000000", UsageError, "measure.features"),
        ("snp", "--vcpus 1 --snp-ovmf-hash 00", UsageError, "measure.hash-length"),
        ("seves", "--vcpus 1 --snp-ovmf-hash 00", UsageError, "measure.mode"),
        ("snp:svsm", "--vcpus 1 --vars-size 4096", UsageError, "measure.svsm"),
        ("snp:svsm", "--vcpus 1 --svsm ovmf", UsageError, "measure.svsm"),
        ("snp:svsm", "--vcpus 1 --svsm ovmf --vars-size -1", UsageError, "measure.svsm"),
        ("snp:svsm", "--vcpus 1 --svsm ovmf --vars-size 1 --sev-features 1", UsageError, "measure.features"),
        ("snp:svsm", "--vcpus 1 --svsm ovmf --vars-size 1 --vmm-type gce", UsageError, "measure.vmm"),
        ("snp:svsm", "--vcpus 1 --svsm ovmf --vars-size 4096", OperationError, "measure.no-svsm-info"),
        ("snp:svsm", "--vcpus 1 --svsm kernel --vars-size 4096", OperationError, "measure.no-svsm-info"),
        ("snp:ovmf-hash", "--explain ovmf", UsageError, "measure.mode"),
    ],
)
def test_what_cannot_be_measured(mode: str, arguments: str, error: type[SealpodError], code: str) -> None:
    with pytest.raises(error) as caught:
        run(mode, *arguments.split())
    assert caught.value.code.startswith(code)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("value", ["", "00", "g" * 64, "0" * 63])
def test_a_hash_has_all_its_digits(value: str) -> None:
    for option in ("--kernel-hash", "--initrd-hash", "--append-hash"):
        given = ["--kernel-hash", "0" * 64] if option != "--kernel-hash" else []
        with pytest.raises(UsageError) as caught:
            cli.dispatch(["measure", "--mode", "sev", "--ovmf", "ovmf", *given, option, value])
        assert caught.value.code == "measure.hash-length"


@pytest.mark.usefixtures("here")
def test_a_file_and_its_hash_exclude_each_other(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        run("sev", "--kernel-hash", "0" * 64)
    assert "not allowed with argument --kernel" in capsys.readouterr().err


def test_a_firmware_is_read_up_to_a_limit(here: Path) -> None:
    with (here / "ovmf").open("r+b") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(DecodeError) as caught:
        run("sev")
    assert caught.value.code == "ovmf.size"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("option", ["--kernel", "--initrd"])
def test_a_device_has_no_end(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_input, "MAX_BOOT_FILE_SIZE", 1 << 20)
    with pytest.raises(OperationError) as caught:
        run("sev", option, "/dev/zero")
    assert caught.value.code == "file.large"


@pytest.mark.usefixtures("here")
def test_memory_is_taken_for_what_is_there() -> None:
    """Not for the limit."""
    tracemalloc.start()
    try:
        assert run("snp", "--vcpus", "1-8") == 0
        assert tracemalloc.get_traced_memory()[1] < 32 * len(IMAGE)
    finally:
        tracemalloc.stop()


def test_the_version(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.dispatch(["measure", "--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("sealpod ")


SLOW = (
    "asyncio",
    "cryptography",
    "dataclasses",
    "importlib.metadata",
    "inspect",
    "json",
    "pathlib",
    "shutil",
    "uuid",
)
ARGPARSES = """
import sys
try:
    import _colorize  # from Python 3.14 on argparse has colours, and they are dataclasses
except ImportError:
    pass
before = set(sys.modules)
"""
SNP_ONLY = ("sealpod.measure.snp", "sealpod.measure.vmsa", "sealpod.measure.components")


@pytest.mark.parametrize("mode", ["sev", "seves", "snp"])
def test_nothing_is_imported_that_is_not_needed(mode: str, here: Path) -> None:
    """What makes the command start faster than the tool it follows."""
    code = (
        f"{ARGPARSES}from sealpod.cli.main import dispatch\n"
        f"dispatch(['measure', '--mode', '{mode}', '--vcpus', '2', *{GUEST}])\n"
        f"print(*sorted((set(sys.modules) - before) & {{*{SLOW + SNP_ONLY}}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    expected = {"sev": "", "seves": "sealpod.measure.vmsa", "snp": "sealpod.measure.snp sealpod.measure.vmsa"}
    assert done.stdout.splitlines()[-1] == expected[mode]


def test_listing_the_commands_imports_none_of_them() -> None:
    code = (
        f"{ARGPARSES}from sealpod.cli.main import dispatch\n"
        "dispatch(['--help'])\n"
        f"print('found', *sorted((set(sys.modules) - before) & {{*{SLOW}}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "found"

# SPDX-License-Identifier: Apache-2.0
"""``sealpod measure`` does what sev-snp-measure (PyPI) does: digests, files, exit statuses and error texts.

Both are called in this process with the same arguments, in every mode, on firmware images that are whole,
lacking and damaged. Where the tool ends in a traceback, sealpod ends in an error of its own, with a code.

One argument differs: in mode seves the tool has the FPU registers of ``--vmsa-fpu init2``, which is not our
default. Left out is what sealpod does otherwise on purpose; docs/measure.md lists it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealpod.cli import main as cli
from sealpod.measure.vcpu import SIGNATURES

tool = pytest.importorskip("sevsnpmeasure.cli")

FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
HASHES = "7255371f-3a3b-4b04-927b-1da6efa8d454"
RESET = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
SVSM_INFO = "a789a612-0597-4c4b-a49f-cbb1fe9d1ddd"
CODE = re.compile(r"^sealpod: error: .+ \[[a-z]+\.[a-z-]+\]$", re.ASCII)


def entry(guid: str, payload: bytes) -> bytes:
    return payload + struct.pack("<H", len(payload) + 18) + UUID(guid).bytes_le


def image(size: int, entries: list[bytes], metadata: bytes | None, footer: str = FOOTER) -> bytes:
    """``size`` bytes ending in a table; the metadata lies at its start."""
    table = b"".join(entries)
    if metadata is not None:
        table = entry(METADATA, struct.pack("<I", size)) + table
    table += struct.pack("<H", len(table) + 18) + UUID(footer).bytes_le
    body = bytes(range(256)) * (size // 256 + 1)
    body = (metadata or b"") + body[len(metadata or b"") :]
    return body[: size - 32 - len(table)] + table + body[size - 32 : size]


def sections(found: list[tuple[int, int, int]], magic: bytes = b"ASEV", version: int = 1) -> bytes:
    head = struct.pack("<4sIII", magic, 16 + 12 * len(found), version, len(found))
    return head + b"".join(struct.pack("<III", *each) for each in found)


page = st.integers(0x800, 0x820).map(lambda number: number * 4096)
section = st.one_of(
    st.tuples(page, st.integers(0, 3).map(lambda n: n * 4096), st.sampled_from([1, 2, 3, 4])),
    st.tuples(page, st.just(4096), st.sampled_from([1, 2, 3, 4, 0x10, 0x10])),
)
odd_section = st.tuples(page, st.integers(0, 9000), st.sampled_from([1, 4, 9, 0x10]))
AREAS = [(0x810C00, 0x400), (0x810000, 0x400), (0x810F00, 0x100), (0x810F50, 0xB0)]
ODD_AREAS = [(0x810F60, 0xA0), (0, 0), (0x810C00, 16)]


@st.composite
def firmwares(draw: st.DrawFn, faults: bool, more: tuple[bytes, ...] = ()) -> bytes:
    """Images that can be measured; with ``faults`` also ones that lack something or are damaged."""
    size = draw(st.integers(1, 6)) * 4096
    kind = draw(st.sampled_from(KINDS if faults else ["whole"]))
    if kind == "short":
        return bytes(draw(st.integers(0, 17)))
    if kind == "none":
        return image(size, [], None, footer=HASHES)
    entries = [entry(HASHES, struct.pack("<II", *draw(st.sampled_from(AREAS + ODD_AREAS * faults)))), *more]
    addresses = [0x80B004, 0x80B004, 0x12345678] + [0] * faults
    entries.append(entry(RESET, struct.pack("<I", draw(st.sampled_from(addresses)))))
    if kind == "lacking":
        del entries[draw(st.integers(0, len(entries) - 1))]
    if kind == "entry":
        entries[-1] = entries[-1][:-18] + struct.pack("<H", 17) + UUID(RESET).bytes_le
    found = draw(st.lists(section, max_size=6))
    if kind == "whole":
        found.insert(draw(st.integers(0, len(found))), (0x810000, 4096, 0x10))
    if kind == "odd":
        found.insert(draw(st.integers(0, len(found))), draw(odd_section))
    blob = sections(found, *{"magic": (b"ASEW",), "version": (b"ASEV", 2)}.get(kind, ()))
    return image(5000 if kind == "pages" else size, entries, None if kind == "bare" else blob)


KINDS = ["whole", "lacking", "odd", "magic", "version", "none", "entry", "short", "pages", "bare"]
MODES = ["sev", "seves", "snp", "snp:ovmf-hash", "snp:svsm"]
cmdlines = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
lines = cmdlines.map(lambda text: " " + text)
numbers = st.integers(0, (1 << 64) - 1)
families = st.tuples(*[st.integers(1, 300).map(str)] * 3).map(
    lambda parts: ["--vcpu-family", parts[0], "--vcpu-model", parts[1], "--vcpu-stepping", parts[2]]
)
signatures = st.integers(1, (1 << 64) - 1).map(hex) | st.sampled_from(["0x800f12", "8392466"])
cpus = st.one_of(
    st.sampled_from([*SIGNATURES]).map(lambda name: ["--vcpu-type", name]),
    signatures.map(lambda value: ["--vcpu-sig", value]),
    families,
)
odd_cpus = st.sampled_from([["--vcpu-type", "epyc"], ["--vcpu-sig", "x"], ["--vcpu-family", "x"], []])
hashes = st.binary(min_size=48, max_size=48).map(bytes.hex)


@dataclass
class Case:
    arguments: list[str]
    files: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def mode(self) -> str:
        return next((mode for mode in MODES if {mode, f"--mode={mode}"} & set(self.arguments)), "")


@st.composite
def cases(draw: st.DrawFn, faults: bool) -> Case:
    """Arguments as a user gives them; with ``faults``, some of them wrong."""

    def option(name: str, good: st.SearchStrategy[str], *bad: str, always: bool = False) -> list[str]:
        if faults and bad and not draw(st.integers(0, 5)):
            return [name, draw(st.sampled_from(bad))]
        return [name, draw(good)] if always or draw(st.booleans()) else []

    mode = draw(st.sampled_from(MODES))
    files = {"ovmf": draw(firmwares(faults))}
    arguments = ["--mode", mode, *option("--ovmf", st.just("ovmf"), "missing", always=True)]
    if draw(st.integers(0, 3)):
        files |= {"kernel": draw(st.binary(max_size=99)), "initrd": draw(st.binary(max_size=99))}
        arguments += option("--kernel", st.just("kernel"), "", "missing", always=True)
        arguments += option("--initrd", st.sampled_from(["initrd", "", "kernel"]), "missing")
        arguments += option("--append", lines | st.just(""))
    elif faults:
        arguments += option("--initrd", st.just("ovmf"), "") + option("--append", lines, "")
    if not faults or draw(st.integers(0, 5)):
        arguments += option("--vcpus", st.sampled_from(["0", "1", "2", "4", " 5"]), "x", always=True)
    arguments += draw(odd_cpus) if faults and not draw(st.integers(0, 5)) else draw(cpus)
    arguments += draw(st.just([]) | cpus)
    if mode != "snp:svsm" or faults:
        arguments += option("--vmm-type", st.sampled_from(["QEMU", "ec2", "gce"]), "EC2", "xen")
    arguments += option("--guest-features", numbers.map(hex) | numbers.map(str) | st.just("0b11"), "zz", "")
    arguments += option("--output-format", st.sampled_from(["hex", "base64"]), "base32")
    arguments += draw(st.sampled_from([[], [], ["-v"], ["--verbose"]]))
    if mode in ("seves", "snp", "snp:svsm") or faults:
        arguments += draw(st.sampled_from([[], [], [], ["--dump-vmsa"]]))
    if mode in ("snp", "snp:ovmf-hash") or faults:
        arguments += option("--snp-ovmf-hash", hashes | st.just(""), "zz")
    if mode == "snp:svsm":
        start = struct.pack("<I", draw(st.sampled_from([0x123, 0, 0xFFFFFFFF])))
        files |= {
            "svsm": draw(firmwares(faults, (entry(SVSM_INFO, start),))),
            "vars": bytes(draw(st.sampled_from([0, 4096]))),
        }
        arguments += ["--svsm", "svsm"]
        size, file = st.sampled_from(["4096", "8192"]), st.just("vars")
        either = option("--vars-size", size, "0", "x") or option("--vars-file", file, "missing", always=True)
        arguments += either
    return Case(arguments, files)


@dataclass
class Outcome:
    status: int | None
    """None: a traceback."""
    out: str
    err: str
    dumped: dict[str, bytes]


def outcome(entry_point: Callable[[], object], program: list[str], directory: Path) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", program),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(directory),
    ):
        try:
            status = entry_point()
        except SystemExit as end:
            status = end.code
        except Exception:  # noqa: BLE001 - whatever the tool ends in
            status = None
    dumped = {}
    for path in directory.glob("vmsa*.bin"):
        dumped[path.name] = path.read_bytes()
        path.unlink()
    assert status is None or isinstance(status, int)
    return Outcome(status, out.getvalue(), err.getvalue(), dumped)


def compare(case: Case, directory: Path) -> tuple[Outcome, Outcome]:
    for name, data in case.files.items():
        (directory / name).write_bytes(data)
    layout = ["--vmsa-fpu", "init2"] if case.mode == "seves" else []
    theirs = outcome(tool.main, ["sev-snp-measure", *case.arguments], directory)
    ours = outcome(cli.main, ["sealpod", "measure", *case.arguments, *layout], directory)
    for name in case.files:
        (directory / name).unlink()
    return theirs, ours


def text_of(err: str) -> str:
    """What the tool says, without its name before it."""
    last = err.splitlines()[-1]
    return last.removeprefix("sev-snp-measure: error: ").removeprefix("Error: ")


def check(theirs: Outcome, ours: Outcome) -> None:
    if theirs.status is None:
        # A clear error of ours where the tool has none; what it printed before does not count.
        assert ours.status not in (0, None), ours
        assert CODE.match(ours.err.splitlines()[-1]), ours.err
        return
    assert ours.status == theirs.status, (theirs, ours)
    assert ours.out == theirs.out
    assert ours.dumped == theirs.dumped
    if theirs.err:
        assert text_of(theirs.err) in ours.err


MEASURED: dict[str, int] = {}

examples = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(examples, max_examples=500)
@given(case=cases(faults=False))
def test_random_guests(case: Case, tmp_path: Path) -> None:
    theirs, ours = compare(case, tmp_path)
    assert theirs.status == 0, theirs.err
    MEASURED[case.mode] = MEASURED.get(case.mode, 0) + 1
    check(theirs, ours)


def test_every_mode_had_its_share() -> None:
    assert set(MEASURED) == set(MODES)
    assert min(MEASURED.values()) >= 30, MEASURED


@settings(examples, max_examples=500)
@given(case=cases(faults=True))
def test_random_faults(case: Case, tmp_path: Path) -> None:
    check(*compare(case, tmp_path))


WHOLE = image(
    8192,
    [entry(HASHES, struct.pack("<II", 0x810C00, 0x400)), entry(RESET, struct.pack("<I", 0x80B004))],
    sections([(0x800000, 8192, 1), (0x80D000, 4096, 2), (0x80E000, 4096, 3), (0x810000, 4096, 0x10)]),
)
FILES = {"ovmf": WHOLE, "kernel": b"k" * 5000, "initrd": b"i" * 3000}


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--mode",
        "--mode sev",
        "--ovmf ovmf",
        "--mode tdx --ovmf ovmf",
        "--mode sev --ovmf ovmf --frobnicate",
        "--mode sev --ovmf ovmf more",
        "--mode sev --ovmf ovmf --vcpus x",
        "--mode sev --ovmf ovmf --vcpus 1.5",
        "--mode sev --ovmf ovmf --vcpu-type epyc",
        "--mode sev --ovmf ovmf --vcpu-sig 0xzz",
        "--mode sev --ovmf ovmf --vcpu-family 0x17",
        "--mode sev --ovmf ovmf --guest-features one",
        "--mode sev --ovmf ovmf --output-format base32",
        "--mode sev --ovmf ovmf --vars-size 4k",
        "--mode sev --ovmf ovmf --vars-size 1 --vars-file ovmf",
        "--mode sev --ovmf ovmf --initrd initrd",
        "--mode sev --ovmf ovmf --append quiet",
        "--mode sev --ovmf ovmf --dump-vmsa",
        "--mode sev --ovmf ovmf --vmm-type EC2",
        "--mode sev --ovmf ovmf --v",
        "--mode sev --ovmf ovmf --vcpu 1",
        "--mode sev --ovmf ovmf --vars=1",
        "--mode seves --ovmf ovmf",
        "--mode seves --ovmf ovmf --vcpus 2",
        "--mode snp --ovmf ovmf --vcpus 2",
        "--mode snp:svsm --ovmf ovmf --vcpus 2 --vcpu-type EPYC --svsm ovmf",
        "--mode snp:svsm --ovmf ovmf --vcpus 2 --vcpu-type EPYC --svsm ovmf --vars-size 4096",
    ],
)
def test_errors_have_the_same_words(arguments: str, tmp_path: Path) -> None:
    theirs, ours = compare(Case(arguments.split(), FILES), tmp_path)
    assert theirs.status in (1, 2)
    check(theirs, ours)


@pytest.mark.parametrize(
    "arguments",
    [
        "--mod sev --ov ovmf",
        "--mode=seves --ovmf=ovmf --vcpus=3 --vcpu-t EPYC-v4 --ker kernel --init initrd --app quiet",
        "--mode snp --ovmf ovmf --vcpus 2 --vm ec2 --k kernel --i initrd --a quiet --g 0x21",
        "--mode snp --ovmf ovmf --vcpus 2 --vcpu-si 0x800f12 --output base64",
        "--mode snp --ovmf ovmf --vcpus 2 --vcpu-f 25 --vcpu-m 1 --vcpu-st 1 --output=base64 --verb",
        "--mode snp:ovmf-hash --ovmf ovmf --output base64 -v",
        "--mode snp --ovmf ovmf --vcpus 1_0 --vcpu-type EPYC-Turin --d",
    ],
)
def test_abbreviations_mean_the_same(arguments: str, tmp_path: Path) -> None:
    theirs, ours = compare(Case(arguments.split(), FILES), tmp_path)
    assert theirs.status == 0, theirs.err
    check(theirs, ours)


@pytest.mark.parametrize("mode", MODES[:4])
def test_the_programs_print_the_same(mode: str, tmp_path: Path) -> None:
    """As processes, what is left of ``main`` included."""
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    arguments = [
        "--mode",
        mode,
        "--ovmf",
        "ovmf",
        "--vcpus",
        "2",
        "--vcpu-type",
        "EPYC-v4",
        "--kernel",
        "kernel",
    ]
    layout = ["--vmsa-fpu", "init2"] if mode == "seves" else []
    programs = Path(sys.executable).parent
    found = [
        subprocess.run(
            command, cwd=tmp_path, capture_output=True, check=True, env=os.environ | {"COLUMNS": "80"}
        )
        for command in (
            [programs / "sev-snp-measure", *arguments],
            [programs / "sealpod", "measure", *arguments, *layout],
        )
    ]
    assert found[0].stdout == found[1].stdout
    assert found[0].stdout

# SPDX-License-Identifier: Apache-2.0
"""Launch digests against their floor and against sev-snp-measure. Prints figures; asserts nothing.

The floor is hashing the bytes, with hashlib, all of them at hand and nothing else done. SEV and SEV-ES: one
SHA-256 over firmware, table and VMSA pages. SEV-SNP: one SHA-384 over the firmware, one over each VMSA page
that differs, and one over each link of the chain, 112 bytes, since a link holds the digest of the one before.
That is less than any implementation does, which must hash the firmware page by page: against those pieces and
links alone is "to pages".

Ours: from the firmware's bytes to the digest, its footer and metadata parsed, kernel, initrd and command line
hashed. The tool's function does the same and reads the files first; it has them in the page cache. Processes
are the installed programs from their spawn to their end. All are taken in turn in one run. Budgets: SEV 1.3,
SEV-SNP 1.25 times the floor; 64 counts of vCPUs 1.1 times one; the process no later than the tool's.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sevsnpmeasure import guest
from sevsnpmeasure.sev_mode import SevMode

import sealpod
from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable
from sealpod.measure.launch import SEV, SEV_ES, SNP, Launch, Vcpus, measure_sev, measure_seves, measure_snp
from sealpod.measure.vmsa import Fpu

SIGNATURE = 0x800F12
LINE = "console=ttyS0 quiet"
MODES = {SEV: SevMode.SEV, SEV_ES: SevMode.SEV_ES, SNP: SevMode.SEV_SNP}
PAGE = 4096
Work = Callable[[], object]


class Guest:
    """A firmware with a small kernel and initrd, so that the firmware decides."""

    def __init__(self, firmware: Path, directory: Path) -> None:
        self.paths = [str(firmware), str(directory / "kernel"), str(directory / "initrd")]
        self.firmware = firmware.read_bytes()
        self.kernel, self.initrd = os.urandom(12 << 10), os.urandom(12 << 10)
        for path, data in zip(self.paths[1:], (self.kernel, self.initrd), strict=True):
            Path(path).write_bytes(data)

    def ours(self, mode: str, counts: tuple[int, ...]) -> Launch:
        firmware = Firmware.of(self.firmware)
        vcpus = Vcpus(counts, SIGNATURE, features=int(mode == SNP), fpu=Fpu.INIT2)
        if mode == SEV:
            return measure_sev(firmware, self.table)
        return (measure_seves if mode == SEV_ES else measure_snp)(firmware, self.table, vcpus)

    def table(self) -> HashesTable:
        return HashesTable.of(self.kernel, self.initrd, LINE)

    def theirs(self, mode: str, vcpus: int) -> bytes:
        return bytes(guest.calc_launch_digest(MODES[mode], vcpus, SIGNATURE, *self.paths, LINE, 1))

    def floor(self, mode: str, count: int) -> Work:
        launch = self.ours(mode, (count,))
        rest = b"".join([launch.hashes.encode() if launch.hashes else b"", *launch.pages])
        small = [self.kernel, self.initrd, LINE.encode()]
        if mode != SNP:
            whole = self.firmware + rest
            return lambda: [hashlib.sha256(each).digest() for each in (whole, *small)]
        links = [bytes(112)] * (len(self.firmware) // PAGE + _links(launch))
        pages = list(dict.fromkeys(launch.pages))

        def work() -> None:
            for each in small:
                hashlib.sha256(each).digest()
            for each in (self.firmware, *pages, *links):
                hashlib.sha384(each).digest()

        return work

    def pages(self, mode: str) -> Work:
        """The same, the firmware in the pieces in which SEV-SNP has to hash it."""
        pieces = [self.firmware[at : at + PAGE] for at in range(0, len(self.firmware), PAGE)]
        links = [bytes(112)] * (len(pieces) + _links(self.ours(mode, (1,))))
        return lambda: [hashlib.sha384(each).digest() for each in (*pieces, *links)]


def _links(launch: Launch) -> int:
    """Links after the firmware's."""
    single = {2, 3}  # a secrets or CPUID section is one link, of whatever size
    sections = [step.section for step in launch.steps if step.section is not None]
    return len(launch.pages) + sum(1 if each.kind in single else each.size // PAGE for each in sections)


def in_turn(works: dict[str, Work], runs: int) -> dict[str, float]:
    """Median milliseconds of each, one after the other in every run."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            taken[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(each) for name, each in taken.items()}


def spawn(command: list[str]) -> Work:
    """A program from its spawn to its end, its output dropped."""
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]

    def work() -> None:
        _, status = os.waitpid(os.posix_spawn(command[0], command, os.environ, file_actions=silent), 0)
        if status:
            raise SystemExit(f"{command[0]} ended with {status}")

    return work


def functions(subject: Guest, runs: int) -> None:
    print(f"in-process, ms, medians of {runs}     floor   ours  ratio   tool  ratio")
    for mode, count in ((SEV, 0), (SEV_ES, 1), (SEV_ES, 4), (SNP, 1), (SNP, 4), (SNP, 64)):
        works: dict[str, Work] = {
            "floor": subject.floor(mode, count),
            "ours": partial(subject.ours, mode, (count,)),
            "tool": partial(subject.theirs, mode, count),
        }
        if mode == SNP:
            works["pages"] = subject.pages(mode)
        found = in_turn(works, runs)
        name = f"{mode}, {count} vCPUs" if count else mode
        ratios = [found[each] / found["floor"] for each in ("ours", "tool")]
        line = (
            f"{found['floor']:7.2f}{found['ours']:7.2f}{ratios[0]:7.2f}{found['tool']:7.2f}{ratios[1]:7.2f}"
        )
        if mode == SNP:
            line += f"   to pages {found['ours'] / found['pages']:.2f}"
        print(f"  {name:<32}{line}")
    for mode in (SEV_ES, SNP):
        found = in_turn(
            {
                "one": partial(subject.ours, mode, (1,)),
                "all": partial(subject.ours, mode, tuple(range(1, 65))),
            },
            runs,
        )
        print(f"  {mode}, 1-64 at once against 1: {found['all'] / found['one']:.2f}")


def processes(subject: Guest, runs: int) -> None:
    print(f"processes, ms, medians of {runs}        bare   ours   tool  ours/tool")
    programs = Path(sys.executable).parent
    for mode in MODES:
        arguments = ["--mode", mode, "--vcpus", "4", "--vcpu-type", "EPYC-v4", "--append", LINE]
        names = ("--ovmf", "--kernel", "--initrd")
        arguments += [word for pair in zip(names, subject.paths, strict=True) for word in pair]
        found = in_turn(
            {
                "bare": spawn([sys.executable, "-c", "pass"]),
                "ours": spawn([str(programs / "sealpod"), "measure", *arguments]),
                "tool": spawn([str(programs / "sev-snp-measure"), *arguments]),
            },
            runs,
        )
        line = "".join(f"{each:7.1f}" for each in found.values()) + f"{found['ours'] / found['tool']:7.2f}"
        print(f"  {mode:<32}{line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--ovmf", type=Path, help="firmware of the AmdSev build (default: the one guests use)"
    )
    parser.add_argument("--runs", type=int, default=41)
    options = parser.parse_args()
    # What installing does for the tool; this package is installed from its sources.
    compileall.compile_dir(os.path.dirname(sealpod.__file__), quiet=1)
    firmware = options.ovmf or _found()
    with tempfile.TemporaryDirectory() as directory:
        subject = Guest(firmware, Path(directory))
        print(f"firmware of {len(subject.firmware) >> 10} KiB")
        functions(subject, options.runs)
        processes(subject, options.runs)


def _found() -> Path:
    from sealpod.guestimage.cache import cache_directory
    from sealpod.guestimage.firmware import find

    return Path(find(cache_directory()))


if __name__ == "__main__":
    main()

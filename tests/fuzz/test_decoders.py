# SPDX-License-Identifier: Apache-2.0
"""Whatever comes, a decoder ends with a value or a DecodeError, soon and in little memory.

In the ordinary suite a short run, the same every time; `make fuzz` runs each for FUZZ_SECONDS.
"""

from __future__ import annotations

import base64
import zlib

import pytest
from fuzzkit import Hang, Target, fuzz, long_run

from sealpod.errors import DecodeError, UsageError

NAMES = (
    "authority",
    "ca-certificate",
    "certificate",
    "certificate-file",
    "chain",
    "id-block",
    "measurement",
    "ovmf",
    "owner-key",
    "packet",
    "platform-chain",
    "report",
    "secret-table",
    "session",
    "snp-report",
    "vmsa",
    "x509",
)


@pytest.fixture(scope="session")
def targets() -> dict[str, Target]:
    from fuzztargets import TARGETS

    return TARGETS


def test_every_target_has_its_run(targets: dict[str, Target]) -> None:
    assert sorted(targets) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_decoder(name: str, targets: dict[str, Target], fuzz_seconds: float) -> None:
    inputs = fuzz(targets[name], seconds=fuzz_seconds)
    print(f"{name}: {inputs} inputs")


def crash(data: bytes) -> None:
    if len(data) > 20:
        raise IndexError


def hoard(data: bytes) -> None:
    bytearray(300_000 + 50 * len(data))


def wrong_family(data: bytes) -> None:
    if data[:1] != b"\1":
        raise UsageError("not a decoder's error")


def hang(data: bytes) -> None:
    while data[:1] == b"\0":
        pass


@pytest.mark.parametrize(
    ("decode", "failure"), [(crash, IndexError), (hoard, AssertionError), (wrong_family, UsageError)]
)
def test_the_fuzzer_finds_what_it_is_for(decode: object, failure: type[Exception]) -> None:
    with pytest.raises(failure):
        fuzz(Target("planted", decode, [b"\1" * 16]), seconds=0)  # type: ignore[arg-type]


def test_the_fuzzer_ends_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzkit.PROCESSOR_SECONDS", 0.05)
    with pytest.raises(Hang):
        fuzz(Target("planted", hang, [b"\1" * 16]), seconds=0)


def test_a_long_run_prints_the_input_it_found() -> None:
    def crash_on_two(data: bytes) -> None:
        if data[1:2] != b"\1":
            raise IndexError

    planted = Target("planted", crash_on_two, [b"\1" * 16], (DecodeError, IndexError))
    assert fuzz(planted, seconds=0.01) > 120
    with pytest.raises(IndexError) as caught:
        long_run(Target("planted", crash_on_two, [b"\1" * 16]), 60)
    (note,) = caught.value.__notes__
    data = zlib.decompress(base64.b64decode(note.rpartition(" ")[2]))
    with pytest.raises(IndexError):
        crash_on_two(data)


def test_an_original_that_is_refused_is_no_original() -> None:
    def refuse(data: bytes) -> None:
        raise DecodeError("nothing")

    with pytest.raises(DecodeError):
        fuzz(Target("planted", refuse, [b""]), seconds=0)

# SPDX-License-Identifier: Apache-2.0
"""Records of SEV-ES and SEV-SNP guests, and of several vCPU counts."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.measure.components import Components
from sealpod.measure.reading import MAX_DIGESTS, read_all
from sealpod.measure.vmsa import Fpu, Vmm

sha256 = st.binary(min_size=32, max_size=32).map(bytes.hex)
sha384 = st.binary(min_size=48, max_size=48).map(bytes.hex)
quads = st.none() | st.integers(0, (1 << 64) - 1)
cmdlines = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@st.composite
def guests(draw: st.DrawFn) -> Components:
    mode = draw(st.sampled_from(["seves", "snp", "snp:svsm"]))
    digests = sha256 if mode == "seves" else sha384
    kernel = draw(st.none() | sha256)
    line = None if kernel is None else draw(st.none() | cmdlines)
    return Components(
        firmware=draw(digests),
        kernel=kernel,
        initrd=None if kernel is None else draw(sha256),
        cmdline=line,
        digest=draw(digests),
        mode=mode,
        vcpus=draw(st.integers(0, 300)),
        signature=draw(quads),
        vmm=draw(st.none() | st.sampled_from([vmm.value for vmm in Vmm])),
        features=draw(quads),
        fpu=draw(st.none() | st.sampled_from([fpu.value for fpu in Fpu])),
        policy=draw(quads),
        svsm=draw(sha256) if mode == "snp:svsm" else None,
        vars_size=draw(st.none() | st.integers(0, 1 << 20)),
        cmdline_sha256=draw(sha256) if kernel is not None and line is None else None,
    )


@given(guests())
def test_round_trip(guest: Components) -> None:
    assert Components.from_json(guest.to_json()) == guest
    assert read_all(guest.to_json().encode()) == (guest,)


@given(guests())
def test_the_table_follows_from_the_hashes(guest: Components) -> None:
    table = guest.table()
    assert (table is None) is (guest.kernel is None)
    if table is not None and guest.kernel is not None:
        assert table[-8 - 32 : -8].hex() == guest.kernel


GOOD: dict[str, Any] = {
    "schemaVersion": 2,
    "mode": "snp",
    "firmware": "0" * 96,
    "kernel": "1" * 64,
    "initrd": "2" * 64,
    "cmdline": "quiet",
    "vcpus": [1, 2],
    "vcpuSignature": "0x800f12",
    "vmm": "QEMU",
    "guestFeatures": "0x1",
    "fpu": "init2",
    "policy": None,
    "digest": ["3" * 96, "4" * 96],
}


def test_several_counts() -> None:
    first, second = read_all(json.dumps(GOOD))
    assert (first.vcpus, first.digest) == (1, "3" * 96)
    assert (second.vcpus, second.digest) == (2, "4" * 96)
    assert first.replace(vcpus=2, digest="4" * 96) == second


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "tdx"},
        {"mode": "snp:ovmf-hash"},
        {"mode": None},
        {"firmware": "0" * 64},
        {"digest": ["3" * 96]},
        {"digest": "3" * 96},
        {"digest": ["3" * 64, "4" * 64]},
        {"vcpus": [], "digest": []},
        {"vcpus": 1},
        {"vcpus": None, "digest": "3" * 96},
        {"vcpus": [1, True]},
        {"vcpus": [1, -1]},
        {"vcpus": [1, 1 << 32]},
        {"vcpus": [1] * (MAX_DIGESTS + 1), "digest": ["3" * 96] * (MAX_DIGESTS + 1)},
        {"vcpuSignature": 8392466},
        {"vcpuSignature": "0x" + "f" * 17},
        {"vcpuSignature": "0XF"},
        {"vmm": "xen"},
        {"fpu": "x87"},
        {"svsm": "0"},
        {"varsSize": "4096"},
        {"cmdline": None},
        {"cmdline": None, "cmdlineHash": "x"},
        {"kernel": None},
        {"schemaVersion": 1},
    ],
)
def test_what_is_no_record(change: dict[str, object]) -> None:
    with pytest.raises(DecodeError) as caught:
        read_all(json.dumps(GOOD | change))
    assert caught.value.code == "measure.record"


def test_mode_sev_has_no_vcpus() -> None:
    sev = GOOD | {"mode": "sev", "firmware": "0" * 64, "digest": "3" * 64}
    assert read_all(json.dumps(sev | {"vcpus": None}))[0].vcpus is None
    for change in ({"vcpus": 1}, {"vcpus": None, "kernel": None, "initrd": None, "cmdline": None}):
        with pytest.raises(DecodeError):
            read_all(json.dumps(sev | change))


plain = st.none() | st.booleans() | st.integers() | st.text(max_size=6)


@given(st.sampled_from(sorted(GOOD)), plain | st.lists(plain, max_size=3))
def test_any_value_in_a_place_is_read_or_refused(name: str, value: object) -> None:
    with contextlib.suppress(DecodeError):
        assert read_all(json.dumps(GOOD | {name: value}))

# SPDX-License-Identifier: Apache-2.0
"""Save areas of vCPUs: field table, JSON, and the pages sevctl builds."""

from __future__ import annotations

import contextlib
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, UsageError
from sealpod.sev.vmsafields import FIELDS, FIELDS_SIZE, PAGE_SIZE, decode, encode, from_json, to_json
from sealpod.sev.vmsapage import Sku, build, update

MILAN = Sku(family=25, model=1, stepping=1)
RESET_ADDRESS = 0x0080B004

fields = st.binary(min_size=FIELDS_SIZE, max_size=FIELDS_SIZE)


def page_of(data: bytes) -> bytes:
    return data.ljust(PAGE_SIZE, b"\0")


def test_the_layout_is_the_specified_one() -> None:
    assert FIELDS_SIZE == 0x408
    offsets = {field.name: field.offset for field in FIELDS}
    assert len(offsets) == len(FIELDS)
    for name, offset in {
        "es": 0, "cs": 0x10, "ss": 0x20, "ds": 0x30, "fs": 0x40, "gs": 0x50, "gdtr": 0x60, "ldtr": 0x70,
        "idtr": 0x80, "tr": 0x90, "cpl": 0xCB, "efer": 0xD0, "xss": 0x140, "cr4": 0x148, "cr0": 0x158,
        "dr7": 0x160, "rip": 0x178, "rsp": 0x1D8, "rax": 0x1F8, "g_pat": 0x268, "rdx": 0x310,
        "sw_exit_code": 0x390, "xcr0": 0x3E8, "x87_state_gpa": 0x400,
    }.items():  # fmt: skip
        assert offsets[name] == offset, name


# The digests are those of sevctl's test data; tests/interop compares the bytes where they are there.
@pytest.mark.parametrize(
    ("cpu", "digest"),
    [
        (0, "f8b52f775502472e5797d2674d9de21f6abc05dc05e9bc49cbb7b6a13688d5e7"),
        (1, "bcee5cb289f72882da17abd8dca5e8a7e9f8e2033e7ad96b4db0ab1a383a6487"),
    ],
)
def test_qemu_pages_are_sevctls(cpu: int, digest: str) -> None:
    page = build("qemu", cpu, sku=MILAN, reset_address=RESET_ADDRESS)
    assert hashlib.sha256(page).hexdigest() == digest


def test_the_json_is_sevctls() -> None:
    shown = to_json(build("qemu", 0, sku=MILAN, reset_address=None))
    digest = "d23c4404b5c2293026bc85e80ef915b5b2e53bb48ee5243bd60bcc56859dfbad"
    assert hashlib.sha256(shown.encode()).hexdigest() == digest
    assert shown.startswith('{\n  "es": {\n    "selector": 0,\n    "attrib": 147,')


def test_upstream_bug_three_byte_reset_address_is_not_copied() -> None:
    """sevctl reads three bytes of OVMF's reset address and so loses an address of 16 MiB or more."""
    shown = decode(build("qemu", 1, sku=MILAN, reset_address=0xFF80B004))
    assert shown["cs"] == {"selector": 0xF000, "attrib": 0x9B, "limit": 0xFFFF, "base": 0xFF800000}
    assert shown["rip"] == 0xB004


def test_the_first_vcpu_starts_at_the_reset_vector() -> None:
    assert build("qemu", 0, sku=MILAN, reset_address=RESET_ADDRESS) == build(
        "qemu", 0, sku=MILAN, reset_address=None
    )


def test_krun_pages() -> None:
    boot = decode(build("krun", 0, sku=MILAN, reset_address=None))
    assert (boot["rsi"], boot["rbp"], boot["rsp"], boot["rip"]) == (0x7000, 0x8FF0, 0x8FF0, 0xFFF0)
    assert boot["cs"] == {"selector": 0xF000, "attrib": 0x9A, "limit": 0xFFFF, "base": 0xFFFF0000}
    attributes = {name: boot[name]["attrib"] for name in ("ss", "ds", "ldtr", "tr")}  # type: ignore[call-overload,index]
    assert attributes == {"ss": 0x92, "ds": 0x93, "ldtr": 0x82, "tr": 0x83}
    other = decode(build("krun", 3, sku=MILAN, reset_address=RESET_ADDRESS))
    assert (other["rsi"], other["rbp"], other["rsp"], other["rip"]) == (0, 0, 0, 0)
    assert other["cs"] == {"selector": 0x9100, "attrib": 0x9A, "limit": 0xFFFF, "base": 0x91000}


@pytest.mark.parametrize(
    ("sku", "signature"),
    [
        (Sku(25, 1, 1), 0xA00F11),
        (Sku(23, 49, 0), 0x830F10),
        (Sku(15, 0, 0), 0xF00),
        (Sku(6, 0x3A, 9), 0x306A9),
        (Sku(270, 255, 15), 0xFFF0FFF),
    ],
)
def test_signatures(sku: Sku, signature: int) -> None:
    assert sku.signature == signature
    assert decode(build("qemu", 0, sku=sku, reset_address=None))["rdx"] == signature


@pytest.mark.parametrize("sku", [(271, 0, 0), (0, 256, 0), (0, 0, 16), (-1, 0, 0)])
def test_a_signature_that_does_not_fit_is_refused(sku: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError) as caught:
        Sku(*sku)
    assert caught.value.code == "vmsa.sku"


@given(fields, st.binary(min_size=1, max_size=PAGE_SIZE - FIELDS_SIZE))
def test_an_update_changes_nothing_else(data: bytes, tail: bytes) -> None:
    page = page_of(data + tail)
    assert update(page, "qemu", 1, sku=Sku(), reset_address=None) == page
    changed = update(page, "qemu", 1, sku=MILAN, reset_address=RESET_ADDRESS)
    before, after = decode(page), decode(changed)
    assert changed[FIELDS_SIZE:] == page[FIELDS_SIZE:]
    assert {name for name in before if before[name] != after[name]} <= {"cs", "rip", "rdx"}
    assert after["cs"] == {**before["cs"], "base": 0x800000}  # type: ignore[dict-item]
    assert update(page, "krun", 1, sku=Sku(), reset_address=RESET_ADDRESS) == page
    assert update(page, "qemu", 0, sku=Sku(), reset_address=RESET_ADDRESS) == page


def test_updating_one_vcpus_page_makes_the_others() -> None:
    first = build("qemu", 0, sku=MILAN, reset_address=None)
    other = build("qemu", 1, sku=MILAN, reset_address=RESET_ADDRESS)
    assert update(first, "qemu", 1, sku=MILAN, reset_address=RESET_ADDRESS) == other


@given(fields)
def test_json_round_trip(data: bytes) -> None:
    page = page_of(data)
    assert from_json(to_json(page)) == page
    assert encode(decode(page)) == page


@given(st.integers(0, 2 * PAGE_SIZE).filter(lambda size: size != PAGE_SIZE))
def test_a_page_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(DecodeError, match=rf"^Expected VMSA length 4096, was {size}$"):
        decode(bytes(size))


@pytest.mark.parametrize(
    "values",
    [
        {"nope": 1},
        {"rip": -1},
        {"rip": 1 << 64},
        {"rip": True},
        {"rip": "1"},
        {"rip": [0]},
        {"reserved_2": [0, 0, 0]},
        {"reserved_2": [0, 0, 0, 256]},
        {"reserved_2": {"a": 1}},
        {"cs": {"selector": 1}},
        {"cs": {"selector": 1 << 16, "attrib": 0, "limit": 0, "base": 0}},
        {"cs": [1, 2, 3, 4]},
        {"cs": None},
    ],
)
def test_wrong_values_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        encode(values)
    with pytest.raises(DecodeError):
        from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "1", '{"rip": 1e3}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        from_json(text)


names = st.sampled_from([field.name for field in FIELDS]) | st.text(max_size=8)
leaves = st.integers() | st.none() | st.booleans() | st.floats() | st.text(max_size=4)
anything = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=8)


@given(st.dictionaries(names, anything, max_size=4))
def test_any_json_ends_in_a_page_or_a_decode_error(values: dict[str, object]) -> None:
    with contextlib.suppress(DecodeError):
        assert len(from_json(json.dumps(values))) == PAGE_SIZE

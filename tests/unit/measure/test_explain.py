# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.measure.components import Components
from sealpod.measure.explain import MAX_WORDS, Difference, explain

REFERENCE = Components("f" * 64, "1" * 64, "2" * 64, "console=ttyS0 quiet panic=1", "d" * 64)
BARE = Components("f" * 64, None, None, None, "f" * 64)


def command_line(actual: str, reference: str = "console=ttyS0 quiet panic=1") -> str:
    (found,) = explain(
        REFERENCE.replace(cmdline=reference), REFERENCE.replace(cmdline=actual, digest="e" * 64)
    )
    assert found.part == "command line"
    return found.detail


def test_equal_guests_differ_in_nothing() -> None:
    assert explain(REFERENCE, REFERENCE) == ()


def test_each_part_is_named_with_both_hashes() -> None:
    actual = REFERENCE.replace(firmware="a" * 64, kernel="b" * 64, initrd="c" * 64, digest="e" * 64)
    found = explain(REFERENCE, actual)
    assert [difference.part for difference in found] == ["firmware", "kernel", "initrd"]
    assert "a" * 64 in found[0].detail
    assert "f" * 64 in found[0].detail
    assert str(found[1]).startswith("kernel differs: SHA-256 is bbbb")


def test_an_initrd_that_was_not_given_is_said_to_be_none() -> None:
    (found,) = explain(REFERENCE, REFERENCE.replace(initrd=sha256().hexdigest(), digest="e" * 64))
    assert found.detail.startswith(f"SHA-256 is {sha256().hexdigest()} (of nothing: none was given)")


def test_the_command_line_is_compared_word_by_word() -> None:
    assert command_line("console=ttyS0 debug panic=1") == "word 2 is 'debug', the reference has 'quiet'"
    assert command_line("console=ttyS0 quiet panic=1 x=y") == "word 4 'x=y' is not in the reference"
    assert command_line("console=ttyS0 panic=1") == "the reference's word 2 'quiet' is missing"


def test_several_words_are_counted_as_such() -> None:
    assert command_line("console=ttyS0 debug panic=2") == (
        "word 2 is 'debug', the reference has 'quiet'; word 3 is 'panic=2', the reference has 'panic=1'"
    )
    assert command_line("console=ttyS0 a b panic=1") == "words 2 to 3 are 'a b', the reference has 'quiet'"
    assert command_line("console=ttyS0 quiet panic=1 x y") == "words 4 to 5 'x y' are not in the reference"
    assert command_line("console=ttyS0") == "the reference's words 2 to 3 'quiet panic=1' are missing"


def test_one_changed_byte_is_found_in_a_long_line() -> None:
    words = [f"option{n}=value" for n in range(300)]
    changed = [*words[:200], "option200=valuf", *words[201:]]
    assert command_line(" ".join(changed), " ".join(words)) == (
        "word 201 is 'option200=valuf', the reference has 'option200=value'"
    )


def test_blanks_count() -> None:
    assert command_line("console=ttyS0  quiet panic=1") == "word 2 '' is not in the reference"


def test_text_of_the_command_line_cannot_steer_a_terminal() -> None:
    detail = command_line("console=ttyS0 \x1b[2J panic=1")
    assert "\x1b" not in detail
    assert "\\x1b[2J" in detail


def test_many_changes_are_counted() -> None:
    reference = " ".join(f"same{n} old{n}" for n in range(20))
    actual = " ".join(f"same{n} new{n}" for n in range(20))
    detail = command_line(actual, reference)
    assert detail.count("the reference has") == MAX_WORDS
    assert detail.endswith(f"; and {20 - MAX_WORDS} more")


def test_a_kernel_that_is_measured_on_one_side_only() -> None:
    assert [found.part for found in explain(BARE, REFERENCE)] == ["kernel", "initrd", "command line"]
    assert explain(REFERENCE, BARE)[-1] == Difference("command line", "is not measured")
    assert explain(REFERENCE, BARE)[0].detail == f"is not measured, the reference has {'1' * 64}"
    assert explain(BARE, REFERENCE)[0].detail == f"SHA-256 is {'1' * 64}, in the reference it is not measured"
    assert explain(BARE, REFERENCE)[-1].detail == "is measured, in the reference it is not"


def test_a_record_whose_digest_does_not_follow_from_its_parts() -> None:
    (found,) = explain(REFERENCE, REFERENCE.replace(digest="e" * 64))
    assert found.part == "digest"


words = st.lists(st.text("abc=", max_size=4), max_size=12).map(" ".join)


@given(words, words)
def test_a_difference_is_reported_exactly_when_there_is_one(first: str, second: str) -> None:
    found = explain(REFERENCE.replace(cmdline=first), REFERENCE.replace(cmdline=second))
    assert bool(found) is (first != second)
    assert all(difference.detail for difference in found)


GUEST = Components(
    "f" * 64,
    "1" * 64,
    "2" * 64,
    "quiet",
    "d" * 64,
    mode="seves",
    vcpus=2,
    signature=0x800F12,
    vmm="QEMU",
    features=0,
    fpu="legacy",
    policy=5,
)


@pytest.mark.parametrize(
    ("change", "part", "detail"),
    [
        ({"vcpus": 4}, "vCPUs", "is 4, the reference has 2"),
        ({"signature": 0xA00F11}, "CPU signature", "is 0xa00f11, the reference has 0x800f12"),
        ({"vmm": "ec2"}, "VMM", "is ec2, the reference has QEMU"),
        ({"features": 0x20}, "guest features", "is 0x20, the reference has 0x0"),
        ({"fpu": "init2"}, "VMSA layout", "is init2, the reference has legacy"),
    ],
)
def test_parts_of_the_vcpus(change: dict[str, Any], part: str, detail: str) -> None:
    (found,) = explain(GUEST, GUEST.replace(digest="e" * 64, **change))
    assert (found.part, found.detail) == (part, detail)


def test_the_policy_is_told_of_but_explains_no_digest() -> None:
    other = GUEST.replace(policy=1)
    assert [str(found) for found in explain(GUEST, other)] == [
        "policy differs: is 0x1, the reference has 0x5"
    ]
    assert [found.part for found in explain(GUEST, other.replace(digest="e" * 64))] == ["policy", "digest"]


def test_what_one_does_not_know_is_not_compared() -> None:
    assert explain(GUEST, GUEST.replace(policy=None, signature=None)) == ()


def test_another_mode_is_named_and_the_rest_compared_where_it_can_be() -> None:
    sev = Components("f" * 64, "1" * 64, "3" * 64, "quiet", "e" * 64)
    assert [found.part for found in explain(GUEST, sev)] == ["mode", "initrd"]
    snp = GUEST.replace(mode="snp", firmware="f" * 96, digest="e" * 96)
    (mode,) = explain(GUEST, snp)
    assert mode.part == "mode"
    assert mode.detail.endswith("whether the firmware is the same cannot be told from hashes of two kinds")
    assert explain(GUEST, sev)[0].detail == "is sev, the reference has seves"
    assert "SEV-SNP hash is" in explain(snp, snp.replace(firmware="0" * 96))[0].detail


def test_a_command_line_that_is_known_by_its_hash() -> None:
    hashed = GUEST.replace(cmdline=None, cmdline_sha256=GUEST.line_hash())
    assert explain(GUEST, hashed) == ()
    (found,) = explain(GUEST.replace(cmdline="debug"), hashed.replace(digest="e" * 64))
    assert found.part == "command line"
    assert f"SHA-256 is {GUEST.line_hash()}" in found.detail


def test_an_svsm() -> None:
    reference = GUEST.replace(mode="snp:svsm", svsm="a" * 64, vars_size=4096)
    actual = reference.replace(svsm="b" * 64, vars_size=8192, digest="e" * 64)
    assert [found.part for found in explain(reference, actual)] == ["SVSM", "variables"]

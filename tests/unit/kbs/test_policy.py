# SPDX-License-Identifier: Apache-2.0
"""The five checks, their order and texts (simple-kbs `src/policy.rs`), and rows that cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, RefusedError
from sealpod.kbs.core.evidence import Evidence, check_version_bytes, clean_description
from sealpod.kbs.core.policy import ALLOW_ALL, Rule, check, check_all

EVIDENCE = Evidence(policy=3, api_major=1, api_minor=24, build_id=15, digest="d", description="")
FAILING = Rule(("x",), (1,), (2, 0), (16,))
words = st.integers(0, 2**32 - 1)
rules = st.builds(
    Rule,
    st.lists(st.text(max_size=50), max_size=3).map(tuple),
    st.lists(words, max_size=3).map(tuple),
    st.tuples(words, words),
    st.lists(words, max_size=3).map(tuple),
)
evidences = st.builds(Evidence, words, words, words, words, st.text(max_size=50), st.text(max_size=5))


def text_of(rule: Rule, evidence: Evidence = EVIDENCE) -> str:
    with pytest.raises(RefusedError) as caught:
        check(rule, evidence)
    assert caught.value.remedy
    return caught.value.message


def test_the_first_failure_wins() -> None:
    assert text_of(FAILING) == "fw digest not valid"
    assert text_of(replace(FAILING, allowed_digests=("d",))) == "policy not valid"
    met = replace(FAILING, allowed_digests=(), allowed_policies=(3,))
    assert text_of(met) == "fw api major not valid"
    assert text_of(replace(met, min_api=(1, 25))) == "fw api minor not valid"
    assert text_of(replace(met, min_api=(1, 24))) == "build id not valid"
    check(replace(met, min_api=(1, 24), allowed_build_ids=()), EVIDENCE)


def test_a_larger_major_makes_the_minor_meaningless() -> None:
    check(Rule(min_api=(0, 99)), EVIDENCE)


@given(evidences)
def test_the_shipped_default_allows_all(evidence: Evidence) -> None:
    check(ALLOW_ALL, evidence)


@given(st.lists(rules, max_size=3), rules, evidences)
def test_another_rule_never_loosens(some: list[Rule], extra: Rule, evidence: Evidence) -> None:
    try:
        check_all([*some, extra], evidence)
    except RefusedError:
        return
    check_all(some, evidence)


@given(rules)
def test_columns_and_back(rule: Rule) -> None:
    assert Rule.from_columns(*rule.columns()) == rule


def test_columns_as_the_tutorial_writes_them() -> None:
    rule = Rule.from_columns('["b64"]', "[]", 0, 0, "[]")
    assert rule == Rule(allowed_digests=("b64",))


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize(
    "bad", [None, "", "[", "{}", "1", "null", [], b"[]", -1, 2**32, True, 1.5, "x" * 2**20]
)
def test_columns_that_cannot_be_read(position: int, bad: object) -> None:
    columns: list[object] = ["[]", "[]", 0, 0, "[]"]
    columns[position] = bad
    with pytest.raises(DecodeError):
        Rule.from_columns(*columns)


@pytest.mark.parametrize("position", [0, 1, 4])
@pytest.mark.parametrize(
    "bad", ["[null]", "[[]]", "[{}]", "[true]", "[1.0]", "[-1]", "[4294967296]", "[" * 100_000]
)
def test_lists_that_cannot_be_read(position: int, bad: str) -> None:
    columns: list[object] = ["[]", "[]", 0, 0, "[]"]
    columns[position] = bad
    with pytest.raises(DecodeError):
        Rule.from_columns(*columns)


SHIPPED = {
    "allowed_digests": [],
    "allowed_policies": [],
    "min_fw_api_major": 0,
    "min_fw_api_minor": 0,
    "allowed_build_ids": [],
}


def test_default_policy_file() -> None:
    assert Rule.from_json(json.dumps(SHIPPED)) == ALLOW_ALL
    assert Rule.from_json(json.dumps({**SHIPPED, "allowed_policies": [3]})) == Rule(allowed_policies=(3,))


@pytest.mark.parametrize("missing", SHIPPED)
def test_every_field_of_the_file_is_mandatory(missing: str) -> None:
    with pytest.raises(DecodeError, match=missing):
        Rule.from_json(json.dumps({name: value for name, value in SHIPPED.items() if name != missing}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{"])
def test_a_file_that_is_no_policy(text: str) -> None:
    with pytest.raises(DecodeError):
        Rule.from_json(text)


def test_version_numbers_fit_one_byte() -> None:
    check_version_bytes(0, 0, 0)
    check_version_bytes(255, 255, 255)
    for numbers in ((256, 0, 0), (0, 257, 0), (0, 0, 2**32 - 1)):
        with pytest.raises(RefusedError):
            check_version_bytes(*numbers)


@given(st.text())
def test_descriptions_are_one_bounded_line(text: str) -> None:
    cleaned = clean_description(text)
    assert len(cleaned) <= 256
    assert cleaned.isprintable()
    assert all(ord(char) <= 0xFFFF for char in cleaned)

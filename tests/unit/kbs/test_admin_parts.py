# SPDX-License-Identifier: Apache-2.0
"""The parts of the admin API by themselves: schemas, tokens, trials, ranges, resource files."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import AccessError, RefusedError, SealpodError, UsageError
from sealpod.kbs.admin import nouns, schema
from sealpod.kbs.admin.bodies import RULE, TEST_BODY
from sealpod.kbs.admin.noun import DONE, Noun
from sealpod.kbs.admin.rules import digest, read_rule, rule_object, version
from sealpod.kbs.admin.suggestion import MAX_VCPUS, vcpu_range
from sealpod.kbs.admin.trial import judge
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.policy import Rule, check
from sealpod.kbs.server.admin import auth, openapi
from sealpod.kbs.server.config import AdminConfig
from sealpod.kbs.store.files import DirectoryFiles

words = st.integers(0, 7)
digests = st.binary(min_size=32, max_size=32).map(lambda raw: base64.b64encode(raw).decode())
rules = st.builds(
    Rule,
    st.lists(st.sampled_from(["a", "b"]), max_size=2).map(tuple),
    st.lists(words, max_size=2).map(tuple),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.lists(words, max_size=2).map(tuple),
)
evidence = st.builds(
    Evidence,
    policy=words,
    api_major=st.integers(0, 2),
    api_minor=st.integers(0, 2),
    build_id=words,
    digest=st.sampled_from(["a", "b"]),
    description=st.just(""),
)


@given(rules, evidence)
def test_a_trial_judges_as_the_broker_does(rule: Rule, launch: Evidence) -> None:
    try:
        check(rule, launch)
        agreed = True
    except RefusedError:
        agreed = False
    assert judge(rule, launch).agrees is agreed


@given(
    st.lists(digests, max_size=3, unique=True),
    st.lists(st.integers(0, 2**32 - 1), max_size=3, unique=True),
    st.tuples(st.integers(0, 255), st.integers(0, 255)),
    st.lists(st.integers(0, 255), max_size=3, unique=True),
)
def test_a_policy_survives_its_json(
    allowed: list[str], policies: list[int], least: tuple[int, int], builds: list[int]
) -> None:
    rule = Rule(tuple(allowed), tuple(policies), least, tuple(builds))
    body = rule_object(rule)
    schema.check(nouns.BY_NAME["policies"].body or {}, body)
    assert read_rule(body) == rule


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*(noun.body for noun in nouns.NOUNS if noun.body), TEST_BODY]), json_values)
def test_any_body_is_taken_or_refused(body: Any, value: Any) -> None:
    refused = None
    try:
        schema.check(body, value)
    except UsageError as error:
        refused = error.code
    if refused is not None:
        assert refused == "admin.body"
        return
    assert set(value) <= set(body["properties"])
    assert set(body.get("required", ())) <= set(value)


@given(st.text(max_size=60))
def test_any_text_is_a_digest_or_refused(text: str) -> None:
    refused = None
    try:
        found = digest(text)
    except UsageError as error:
        refused = error.code
    if refused is not None:
        assert refused == "policy.digest-syntax"
        return
    assert len(base64.b64decode(found)) == 32


@given(st.text(max_size=10))
def test_any_text_is_a_version_or_refused(text: str) -> None:
    try:
        major, minor = version(text)
    except UsageError:
        pass
    else:
        assert max(major, minor) <= 255


@pytest.mark.parametrize(
    ("text", "counts"), [("1", (1,)), ("1-4", (1, 2, 3, 4)), ("8,1-2,2", (1, 2, 8)), (" 3 , 5 ", (3, 5))]
)
def test_ranges_of_vcpus(text: str, counts: tuple[int, ...]) -> None:
    assert vcpu_range(text) == counts


@given(st.text(alphabet="0123456789-, ", max_size=12))
def test_any_text_is_a_range_or_refused(text: str) -> None:
    refused = None
    try:
        counts = vcpu_range(text)
    except UsageError as error:
        refused = error.code
    if refused is not None:
        assert refused == "policy.vcpus"
        return
    assert counts
    assert all(1 <= count <= MAX_VCPUS for count in counts)


class TestTokens:
    @pytest.fixture
    def gate(self, tmp_path: Path) -> auth.Gatekeeper:
        path = tmp_path / "tokens"
        path.write_text("one " + "a" * 40 + "\n\n# note\n" + "b" * 40 + "\n")
        path.chmod(0o600)
        return auth.Gatekeeper(AdminConfig("127.0.0.1:0", str(path)))

    def test_names(self, gate: auth.Gatekeeper) -> None:
        assert gate.identify("Bearer " + "a" * 40, "") == "token:one"
        assert gate.identify("bearer  " + "b" * 40, "") == "token:admin"
        assert gate.identify("Bearer " + "b" * 40, "owner") == "token:admin cert:owner"

    @given(st.text(max_size=60))
    def test_any_other_word_is_refused(self, text: str) -> None:
        tokens = (auth.Token("x", hashlib.sha256(b"a" * 40).digest()),)
        with pytest.raises(AccessError) as caught:
            auth._match(tokens, text)
        assert caught.value.code == "admin.unauthorized"

    def test_every_token_is_compared_in_constant_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compared = []
        real = hmac.compare_digest

        def counted(one: Any, other: Any) -> bool:
            compared.append(len(one))
            return real(one, other)

        monkeypatch.setattr(auth.hmac, "compare_digest", counted)
        tokens = tuple(auth.Token(name, hashlib.sha256(name.encode() * 40).digest()) for name in "abc")
        assert auth._match(tokens, "Bearer " + "a" * 40) == "a"
        assert compared == [32, 32, 32]  # the first that fits does not end it

    def test_tokens_do_not_show(self, gate: auth.Gatekeeper) -> None:
        assert "a" * 40 not in repr(vars(gate))
        assert "a" * 40 not in repr(gate._tokens.get() if gate._tokens else "")


class TestResourceFiles:
    """A resource's path stays under its directory, whoever wrote it into the database."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> DirectoryFiles:
        root = tmp_path / "resources"
        (root / "sub").mkdir(parents=True)
        (root / "sub/file").write_bytes(b"inside")
        (root / "..data").mkdir()
        (root / "..data/key").write_bytes(b"mounted")
        (root / "key").symlink_to("..data/key")
        (tmp_path / "outside").write_bytes(b"outside")
        (tmp_path / "resources-not").mkdir()
        (tmp_path / "resources-not/file").write_bytes(b"outside")
        (root / "out").symlink_to(tmp_path / "outside")
        (root / "up").symlink_to("..")
        os.mkfifo(root / "fifo")
        return DirectoryFiles(str(root), limit=100)

    @pytest.mark.parametrize(
        ("path", "data"), [("sub/file", b"inside"), ("sub/../sub/file", b"inside"), ("key", b"mounted")]
    )
    def test_inside(self, files: DirectoryFiles, path: str, data: bytes) -> None:
        assert files.read(path).reveal() == data

    @pytest.mark.parametrize(
        "path",
        [
            *("", ".", "..", "../outside", "/etc/passwd", "out", "up/outside", "sub/../../outside"),
            *("../resources-not/file", "x\0y", "sub", "fifo", "nothing", "sub/file/x", "//etc/passwd"),
        ],
    )
    def test_outside(self, files: DirectoryFiles, path: str) -> None:
        with pytest.raises(SealpodError) as caught:
            files.read(path)
        assert caught.value.code in ("resource.path", "resource.file")
        assert "outside" not in caught.value.message.replace("leads out", "")

    def test_a_file_that_is_too_large(self, files: DirectoryFiles, tmp_path: Path) -> None:
        (tmp_path / "resources/large").write_bytes(bytes(101))
        with pytest.raises(RefusedError, match="more than 100 bytes"):
            files.read("large")

    @given(st.text(alphabet="./a\\~$ ", max_size=12))
    def test_no_path_leads_out(self, text: str) -> None:
        root = os.path.dirname(__file__)
        files = DirectoryFiles(root, limit=1 << 20)
        with pytest.raises(SealpodError):
            files.read(text)


def test_the_document_names_its_parts() -> None:
    document = openapi.document()
    assert set(document["components"]["schemas"]) == {
        *("Error", "Secret", "Keyset", "Policy", "Resource", "ReportKey", "Connection", "Launch")
    }
    assert "/v1/report-keys/{id}" in document["paths"]


@pytest.mark.parametrize("noun", nouns.NOUNS, ids=lambda noun: noun.noun)
def test_every_kind_is_whole(noun: Noun) -> None:
    """The command's verbs are those that the database has, and the API's."""
    verbs = noun.verbs()
    assert set(noun.help) - {"set", "list", "show"} == set(verbs.ends) <= set(DONE)
    assert ("set" in noun.help) is (noun.setting is not None)
    assert noun.api_end in verbs.ends
    assert noun.reveals is (verbs.reveal is not None) is ("value" in noun.shown["properties"])
    assert noun.id in noun.shown["properties"]
    assert set(noun.yes_or_no) <= set(noun.header)
    assert noun.about
    assert all(noun.help.values())


@pytest.mark.parametrize("noun", [one for one in nouns.NOUNS if one.body is None], ids=lambda one: one.noun)
def test_what_comes_about_by_itself_is_not_set(noun: Noun) -> None:
    with pytest.raises(UsageError, match="cannot be set"):
        noun.sets()


@pytest.mark.parametrize(
    "text",
    ["0.0", "0.24", "255.255", "001.020", "256.0", "0.300", "", "1", "1.", ".1", "1.2.3", "a.b", "-1.0"],
)
def test_versions_that_the_document_describes_are_those_that_are_taken(text: str) -> None:
    described = re.fullmatch(RULE["minApi"]["pattern"].removeprefix("^").removesuffix("$"), text)
    try:
        version(text)
    except UsageError:
        assert described is None
    else:
        assert described is not None

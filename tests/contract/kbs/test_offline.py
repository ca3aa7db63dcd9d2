# SPDX-License-Identifier: Apache-2.0
"""GetBundle and GetSecret: what a launch gets, and what each kind of cheating gets.

Left out: real AMD chains (their PDH keys are in the hardware); the texts of base64 errors.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from sealpod.sev.cert import Algorithm, Usage, sign
from sealpod.sev.chain import Chain

GUID = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
BUNDLE = (GUID, "JSON", "bundle", "KEYSET-1")
KEY_B64 = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="
REFERENCE = base64.b64encode(hashlib.sha256(b"sev-test-vector firmware").digest()).decode()
OTHER = base64.b64encode(hashlib.sha256(b"another guest").digest()).decode()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def policy_row(
    number: int,
    *,
    digests: object = (),
    policies: object = (),
    major: int = 0,
    minor: int = 0,
    builds: object = (),
    valid: int = 1,
) -> str:
    lists = [json.dumps(list(one)) for one in (digests, policies, builds)]  # type: ignore[call-overload]
    return (
        f"REPLACE INTO policy VALUES ({number},'{lists[0]}','{lists[1]}',{major},{minor},'{lists[2]}',"
        f"CURRENT_TIMESTAMP,NULL,{valid})"
    )


class TestHappy:
    def test_bundle_is_shipped_with_the_measured_guest(self, host: Any) -> None:
        launched = host.launch()
        table = launched.open(host.client.secret(BUNDLE, **launched.claim))
        assert table == {GUID: f'{{"key_id1":"{KEY_B64}"}}'.encode()}

    def test_launch_id_is_a_hyphenated_lower_case_uuid(self, host: Any) -> None:
        launch_id = host.launch().launch_id
        assert len(launch_id) == 36
        assert launch_id == launch_id.lower()
        assert launch_id.count("-") == 4

    def test_the_owners_certificate_has_no_signature(self, host: Any) -> None:
        reply = host.client.bundle(b64(host.platform.chain))
        godh = base64.b64decode(reply[1])
        assert len(godh) == 2084
        assert godh[:20].hex() == "0100000000000000031000000300000002000000"
        assert godh[0x414:0x41C].hex() == godh[0x61C:0x624].hex() == "0010000000000000"
        assert len(base64.b64decode(reply[2])) == 128

    @pytest.mark.parametrize(
        ("form", "payload"),
        [
            ("binary", base64.b64decode(KEY_B64)),
            ("Binary", base64.b64decode(KEY_B64)),
            ("json", f'{{"id":"key_id1","payload":"{KEY_B64}"}}'.encode()),
            ("JSON", f'{{"id":"key_id1","payload":"{KEY_B64}"}}'.encode()),
        ],
    )
    def test_a_key_by_format(self, host: Any, form: str, payload: bytes) -> None:
        launched = host.launch()
        reply = host.client.secret((GUID, form, "key", "key_id1"), **launched.claim)
        assert launched.open(reply) == {GUID: payload}

    def test_type_in_any_case(self, host: Any) -> None:
        launched = host.launch()
        assert launched.open(host.client.secret((GUID, "", "Bundle", "KEYSET-1"), **launched.claim))

    def test_nothing_asked_for_gives_an_empty_table(self, host: Any) -> None:
        launched = host.launch()
        reply = host.client.secret(**launched.claim)
        assert launched.open(reply) == {}
        assert len(base64.b64decode(reply[2])) == 32

    def test_a_policy_with_a_minimum_firmware_version(self, host: Any) -> None:
        launched = host.launch(policy=0x18000003)
        reply = host.client.secret(BUNDLE, **launched.claim, policy=0x18000003)
        assert GUID in launched.open(reply)

    def test_trailing_bytes_of_a_chain_are_ignored(self, host: Any) -> None:
        assert host.client.bundle(b64(host.platform.chain + b"tail"))[3]


class TestOwnersTables:
    """Statements as the tutorial for key owners has them; they take effect at once."""

    def test_digest_not_allowed(self, host: Any, owner: Any) -> None:
        owner(policy_row(10, digests=[OTHER]), f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',10)")
        launched = host.launch()
        refused = host.client.refusal(host.client.secret, BUNDLE, **launched.claim)
        assert refused.text == "Policy validation failed: fw digest not valid"
        assert refused.code == "policy.digest"
        assert "sealpod measure" in refused.remedy

    def test_a_policy_refusal_leaves_the_launch(self, host: Any, owner: Any) -> None:
        owner(policy_row(10, digests=[OTHER]), f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}',10)")
        launched = host.launch()
        host.client.refusal(host.client.secret, BUNDLE, **launched.claim)
        owner(policy_row(10, digests=[REFERENCE]))
        assert GUID in launched.open(host.client.secret(BUNDLE, **launched.claim))

    @pytest.mark.parametrize(
        ("limits", "text", "code"),
        [
            ({"policies": [1]}, "policy not valid", "policy.sev-policy"),
            ({"major": 1}, "fw api major not valid", "policy.api-major"),
            ({"minor": 25}, "fw api minor not valid", "policy.api-minor"),
            ({"builds": [14, 16]}, "build id not valid", "policy.build-id"),
        ],
    )
    def test_each_limit(self, host: Any, owner: Any, limits: Any, text: str, code: str) -> None:
        owner(policy_row(10, **limits), "REPLACE INTO keysets VALUES (10,'KEYSET-1','[\"key_id1\"]',10)")
        launched = host.launch()
        refused = host.client.refusal(host.client.secret, BUNDLE, **launched.claim)
        assert (refused.text, refused.code) == (f"Policy validation failed: {text}", code)

    @pytest.mark.parametrize(
        "broken",
        [
            "DELETE FROM policy",
            policy_row(10, valid=0),
            "REPLACE INTO policy VALUES (10,'[','[]',0,0,'[]',NULL,NULL,1)",
            "REPLACE INTO policy VALUES (10,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1)",
            "REPLACE INTO policy VALUES (10,'[1]','[]',0,0,'[]',NULL,NULL,1)",
            "REPLACE INTO policy VALUES (10,'[]','[\"3\"]',0,0,'[]',NULL,NULL,1)",
        ],
    )
    @pytest.mark.parametrize("holder", ["secrets", "keysets"])
    def test_a_policy_that_cannot_be_read_refuses(
        self, host: Any, owner: Any, holder: str, broken: str
    ) -> None:
        owner(policy_row(10), broken, f"UPDATE {holder} SET polid=10")
        launched = host.launch()
        refused = host.client.refusal(host.client.secret, BUNDLE, **launched.claim)
        assert refused.text.startswith("Policy validation failed: ")
        assert refused.code == "policy.unavailable"

    @pytest.mark.parametrize(
        ("details", "code"),
        [
            ((GUID, "binary", "key", "no-such-key"), "secret.unknown"),
            ((GUID, "", "bundle", "NO-SUCH-SET"), "keyset.unknown"),
            ((GUID, "", "bundle", "BROKEN"), "secret.unknown"),
            ((GUID, "", "report", "no-such-key"), "report-key.unknown"),
            ((GUID, "binary", "resource", "no-such-type"), "resource.unknown"),
        ],
    )
    def test_unknown_ids(self, host: Any, owner: Any, details: Any, code: str) -> None:
        owner("""REPLACE INTO keysets VALUES (11,'BROKEN','["key_id1","nope"]',NULL)""")
        launched = host.launch()
        refused = host.client.refusal(host.client.secret, details, **launched.claim)
        assert refused.text == (
            "Cannot fulfill secret request: "
            "no rows returned by a query that expected to return at least one row"
        )
        assert refused.code == code
        # The request was refused before the launch id was spent on it.
        assert launched.open(host.client.secret(BUNDLE, **launched.claim))

    def test_a_key_that_is_not_base64_is_found_before_the_guest_finds_it(self, host: Any, owner: Any) -> None:
        owner(f"REPLACE INTO secrets VALUES (10,'key_id1','{KEY_B64}\n',NULL)")
        launched = host.launch()
        refused = host.client.refusal(host.client.secret, BUNDLE, **launched.claim)
        assert refused.text == "Cannot fulfill secret request: Invalid Secret Format"

    def test_table_too_large_for_the_guest(self, host: Any, owner: Any) -> None:
        large = b64(bytes(768))
        owner(
            *(f"REPLACE INTO secrets VALUES ({n},'large{n}','{large}',NULL)" for n in range(20, 24)),
            """REPLACE INTO keysets VALUES (20,'LARGE','["large20","large21","large22"]',NULL)""",
        )
        launched = host.launch()
        refused = host.client.refusal(host.client.secret, (GUID, "", "bundle", "LARGE"), **launched.claim)
        assert refused.text.startswith("Cannot fulfill secret request: secret table too large")
        assert refused.code == "secret.table-too-large"
        assert launched.open(host.client.secret(BUNDLE, **launched.claim))


class TestLaunch:
    def test_a_launch_id_serves_once(self, host: Any) -> None:
        launched = host.launch()
        host.client.secret(BUNDLE, **launched.claim)
        refused = host.client.refusal(host.client.secret, BUNDLE, **launched.claim)
        assert refused.text == f"Launch ID not found. UUID: {launched.launch_id}"
        assert refused.code == "launch.unknown"
        assert "GetBundle" in refused.remedy

    def test_racing_requests_get_one_secret(self, host: Any) -> None:
        for _ in range(5):
            launched, outcomes = host.launch(), []
            barrier = threading.Barrier(4)

            def ask(launched: Any = launched, outcomes: Any = outcomes, barrier: Any = barrier) -> None:
                barrier.wait(timeout=10)
                try:
                    outcomes.append(host.client.secret(BUNDLE, **launched.claim))
                except host.client.Refused as error:
                    outcomes.append(error.code)

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(timeout=20)
            granted = [one for one in outcomes if isinstance(one, dict)]
            assert len(granted) == 1
            assert outcomes.count("launch.unknown") == 3
            assert GUID in launched.open(granted[0])

    def test_a_changed_measurement_spends_the_launch(self, host: Any) -> None:
        launched = host.launch()
        wrong = bytes([launched.measure[0] ^ 1]) + launched.measure[1:] + launched.mnonce
        claim = {**launched.claim, "measurement": b64(wrong)}
        refused = host.client.refusal(host.client.secret, BUNDLE, **claim)
        assert refused.text.startswith("Measurement Verification Failed: ")
        assert refused.code == "measurement.mismatch"
        again = host.client.refusal(host.client.secret, BUNDLE, **launched.claim)
        assert again.code == "launch.unknown"

    @pytest.mark.parametrize(
        "lie", [{"digest": OTHER}, {"api_minor": 25}, {"api_major": 1}, {"build_id": 16}]
    )
    def test_what_was_measured_cannot_be_misstated(self, host: Any, lie: dict[str, Any]) -> None:
        launched = host.launch()
        refused = host.client.refusal(host.client.secret, BUNDLE, **launched.claim, **lie)
        assert refused.code == "measurement.mismatch"

    def test_the_policy_is_the_bundles(self, host: Any) -> None:
        launched = host.launch(policy=0)
        refused = host.client.refusal(host.client.secret, BUNDLE, **launched.claim, policy=3)
        assert refused.text.startswith("Policy validation failed: ")
        assert refused.code == "policy.mismatch"

    @pytest.mark.parametrize("part", ["api_major", "api_minor", "build_id"])
    @pytest.mark.parametrize("value", [256, 257, 2**32 - 1])
    def test_numbers_the_measurement_cannot_hold(self, host: Any, part: str, value: int) -> None:
        launched = host.launch()
        refused = host.client.refusal(host.client.secret, BUNDLE, **launched.claim, **{part: value})
        assert refused.text.startswith("Policy validation failed: ")
        assert refused.code == "request.version-range"

    @pytest.mark.parametrize("text", ["", "nonsense", "12345678-1234-1234-1234-12345678901", "é" * 36])
    def test_malformed_launch_id(self, host: Any, text: str) -> None:
        refused = host.client.refusal(host.client.secret, BUNDLE, launch_id=text, measurement="")
        assert refused.text.startswith("Malformed Launch ID: ")

    def test_unknown_launch_id(self, host: Any) -> None:
        unknown = "00000000-0000-4000-8000-000000000000"
        refused = host.client.refusal(host.client.secret, BUNDLE, launch_id=unknown, measurement="")
        assert refused.text == f"Launch ID not found. UUID: {unknown}"

    @pytest.mark.parametrize("size", [0, 32, 47, 49, 500])
    def test_malformed_measurement(self, host: Any, size: int) -> None:
        claim = {**host.launch().claim, "measurement": b64(bytes(size))}
        refused = host.client.refusal(host.client.secret, BUNDLE, **claim)
        assert refused.text.startswith("Measurement Verification Failed: ")

    @pytest.mark.parametrize("digest", ["", "AAAA", "not base64", b64(bytes(31)), b64(bytes(33)), "ab" * 32])
    def test_malformed_digest(self, host: Any, digest: str) -> None:
        launched = host.launch()
        refused = host.client.refusal(host.client.secret, BUNDLE, **launched.claim, digest=digest)
        assert refused.text.startswith("Measurement Verification Failed: ")
        # Found before the launch id was spent.
        assert launched.open(host.client.secret(BUNDLE, **launched.claim))


class TestRequests:
    @pytest.mark.parametrize(
        ("details", "code"),
        [
            ([(GUID, "", "keyset", "x")], "request.unknown-type"),
            ([(GUID, "", "", "x")], "request.unknown-type"),
            ([(GUID, "", "reports", "x")], "request.unknown-type"),
            ([BUNDLE, (GUID.upper(), "binary", "key", "key_id1")], "request.duplicate-guid"),
            ([("not a guid", "", "bundle", "KEYSET-1")], "decode.guid"),
            ([("00000000-0000-0000-0000-000000000000", "", "bundle", "x")], "request.nil-guid"),
            ([(GUID, "", "key", "x" * 1025)], "request.malformed"),
            ([(f"{GUID[:-2]}{n:02x}", "", "connection", "") for n in range(65)], "request.malformed"),
        ],
    )
    def test_bad_requests(self, host: Any, details: Any, code: str) -> None:
        launched = host.launch()
        refused = host.client.refusal(host.client.secret, *details, **launched.claim)
        assert refused.text.startswith("Bad secret request: ")
        assert refused.code == code
        assert launched.open(host.client.secret(BUNDLE, **launched.claim))

    def test_upstreams_words_for_an_unknown_type(self, host: Any) -> None:
        refused = host.client.refusal(host.client.secret, (GUID, "", "x", ""), **host.launch().claim)
        assert refused.text == "Bad secret request: Unknown Secret Type"

    def test_upstreams_words_for_an_unknown_format(self, host: Any) -> None:
        details = (GUID, "xml", "key", "key_id1")
        refused = host.client.refusal(host.client.secret, details, **host.launch().claim)
        assert refused.text == "Cannot fulfill secret request: Unknown format type"


class TestChain:
    @pytest.mark.parametrize("size", [0, 1, 2083, 2084, 4 * 2084, 4 * 2084 + 64, 4 * 2084 + 832, 9999, -1])
    def test_truncated(self, host: Any, size: int) -> None:
        refused = host.client.refusal(host.client.bundle, b64(host.platform.chain[:size]))
        assert refused.text.startswith(
            "Failed to generate launch bundle: Cert Chain not formatted correctly: "
        )
        assert refused.code in ("chain.malformed", "cert.malformed")
        assert refused.remedy

    def test_another_order(self, host: Any) -> None:
        chain = host.platform.chain
        swapped = chain[2084:4168] + chain[:2084] + chain[4168:]
        refused = host.client.refusal(host.client.bundle, b64(swapped))
        assert "Cert Chain not formatted correctly: " in refused.text

    @pytest.mark.parametrize("text", ["!", "AAA", "AAAA\n", "é"])
    def test_not_base64(self, host: Any, text: str) -> None:
        refused = host.client.refusal(host.client.bundle, text)
        assert refused.text.startswith("Failed to generate launch bundle: ")
        assert refused.code == "base64.malformed"

    def test_untrusted_root(self, host: Any) -> None:
        stranger = type(host.platform)()
        refused = host.client.refusal(host.client.bundle, b64(stranger.chain))
        assert refused.code == "chain.untrusted-root"
        assert stranger.fingerprint in refused.text

    def test_a_root_that_only_has_the_ids_of_the_trusted_one(self, host: Any) -> None:
        chain = Chain.decode(host.platform.chain)
        forged = replace(chain, ark=host.platform.forge_ark()).encode()
        assert host.client.refusal(host.client.bundle, b64(forged)).code == "chain.untrusted-root"

    def test_the_chip_key_of_a_stranger_under_the_trusted_root(self, host: Any) -> None:
        chain, stranger = Chain.decode(host.platform.chain), type(host.platform)()
        cek = sign(chain.cek, stranger.ask_key, Usage.ASK, Algorithm.RSA_SHA256, 0)
        refused = host.client.refusal(host.client.bundle, b64(replace(chain, cek=cek).encode()))
        assert refused.code == "chain.cek"

    @pytest.mark.parametrize(
        ("offset", "code"),
        [
            (0x05, "chain.pdh"),
            (2084 + 0x05, "chain.pek-oca"),
            (2 * 2084 + 0x05, "chain.oca"),
            (3 * 2084 + 0x05, "chain.cek"),
            (4 * 2084 + 0x200, "chain.ask"),
            (4 * 2084 + 832 + 0x200, "chain.ark"),
        ],
    )
    def test_one_bit_of_any_link(self, host: Any, offset: int, code: str) -> None:
        chain = bytearray(host.platform.chain)
        chain[offset] ^= 1
        refused = host.client.refusal(host.client.bundle, b64(bytes(chain)))
        assert refused.text.startswith("Failed to generate launch bundle: ")
        assert refused.code == code


class TestCase:
    """The digest is compared as text, in its one spelling."""

    def test_a_digest_with_spare_bits_is_not_a_second_spelling(self, host: Any, owner: Any) -> None:
        owner(policy_row(10, digests=[REFERENCE]), "UPDATE secrets SET polid=10")
        launched = host.launch()
        assert REFERENCE.endswith("k=")
        other_spelling = REFERENCE[:-2] + "l="
        refused = host.client.refusal(host.client.secret, BUNDLE, **launched.claim, digest=other_spelling)
        assert refused.text == "Policy validation failed: fw digest not valid"

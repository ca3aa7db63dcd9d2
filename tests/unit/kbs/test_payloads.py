# SPDX-License-Identifier: Apache-2.0
"""Payload bytes, the online map, sealing, base64 and the record line: known answers and properties.

Vectors: simple-kbs `src/request.rs` as listed in tests/vectors/LEDGER.md.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from uuid import RFC_4122

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, RefusedError, SealpodError, UsageError
from sealpod.kbs.core.asker import Asker, NoFiles, new_connection
from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.encoding import decode_base64, encode_base64
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.gathering import gather
from sealpod.kbs.core.material import BundleMaterial, KeyMaterial
from sealpod.kbs.core.online import encode_map, encrypt_reply
from sealpod.kbs.core.policy import Rule
from sealpod.kbs.core.records import StoredKeyset, StoredSecret
from sealpod.kbs.core.request import RawRequest, SecretKind, SecretRequest, parse_requests
from sealpod.kbs.core.stage import stage
from sealpod.secret import SecretBytes

GUID = "2cf13667-ea72-4013-9dd6-155e89c5a28f"
KEY_B64 = "RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="
EVIDENCE = Evidence(3, 0, 24, 15, "d", "")
REPLY = (
    "D7y13rUsg70sqKk1GCyRmeAgMGIbt1YYrfvStPfSaWZ/bMuFTpaOKwL2RJD59wp7yDV5gHJxRqVQtj8mPgU9kMkcW2njtCRxrKmXy/ys"
    "klDlWS3Sicbh"
)


def counter(size: int) -> bytes:
    return bytes(range(size))


def asker(rng: Callable[[int], bytes]) -> Asker:
    return Asker(EVIDENCE, None, 0.0, 0.0, rng, NoFiles())


def stored(name: str = "key_id1", value: str = KEY_B64, rule: Rule | None = None) -> StoredSecret:
    return StoredSecret(name, SecretBytes(value.encode()), rule)


class TestOnlineMap:
    def test_vector(self) -> None:
        plain = encode_map([(GUID, b"test secret")])
        assert len(plain) == 71
        assert plain.hex() == (
            "01000000000000002400000000000000"
            + GUID.encode().hex()
            + "0b00000000000000"
            + "7465737420736563726574"
        )

    def test_encrypted_vector(self) -> None:
        sealed = encrypt_reply(SecretBytes(counter(32)), [(GUID, SecretBytes(b"test secret"))], iv=bytes(12))
        assert encode_base64(sealed) == REPLY

    def test_empty(self) -> None:
        assert encode_map([]) == bytes(8)


class TestPayloads:
    def test_bundle_is_compact_json_in_the_keysets_order(self) -> None:
        keyset = StoredKeyset("K", ("b", "a"), None)
        material = BundleMaterial("K", keyset, (("b", stored("b", "Yg==")), ("a", stored("a", "YQ=="))))
        assert material.payload().reveal() == b'{"b":"Yg==","a":"YQ=="}'

    def test_offline_bundle_vector(self) -> None:
        material = BundleMaterial("K", StoredKeyset("K", ("key_id1",), None), (("key_id1", stored()),))
        payload = material.payload().reveal()
        assert payload == b'{"key_id1":"RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="}'
        assert len(payload) == 58

    def test_ids_are_not_escaped_more_than_json_needs(self) -> None:
        material = BundleMaterial("K", StoredKeyset("K", ('ü"',), None), (('ü"', stored('ü"', "YQ==")),))
        assert material.payload().reveal() == '{"ü\\"":"YQ=="}'.encode()

    def test_an_empty_keyset(self) -> None:
        assert BundleMaterial("K", StoredKeyset("K", (), None), ()).payload().reveal() == b"{}"

    def test_key_forms(self) -> None:
        def payload(form: str) -> bytes:
            request = SecretRequest(GUID, form, SecretKind.KEY, "key_id1")
            return KeyMaterial(request, stored()).payload().reveal()

        assert payload("binary").hex() == "45c1c66af6b9d833ef8f5ba8224fcd543625c318b403acb2219f22961117dd7e"
        assert payload("json") == f'{{"id":"key_id1","payload":"{KEY_B64}"}}'.encode()
        with pytest.raises(UsageError, match=r"^Unknown format type$"):
            payload("")

    def test_connection(self) -> None:
        class NoStore:
            pass

        request = SecretRequest(GUID, "", SecretKind.CONNECTION, "ignored")
        material = gather(NoStore(), request, asker(counter))  # type: ignore[arg-type]
        payload = material.payload().reveal()
        assert len(payload) == 105
        assert json.loads(payload) == {
            "client_id": "00010203-0405-8607-8809-0a0b0c0d0e0f",
            "key": base64.b64encode(counter(32)).decode(),
        }
        assert material.connections[0].evidence == EVIDENCE
        assert material.rules == ()

    @pytest.mark.parametrize("byte", [0x00, 0xFF])
    def test_connection_ids_announce_that_replies_are_bound(self, byte: int) -> None:
        made = new_connection(asker(lambda size: bytes([byte]) * size)).client_id
        assert (made.version, made.variant) == (8, RFC_4122)

    def test_a_bundle_needs_the_keysets_and_its_members_policies(self) -> None:
        own, member = Rule(allowed_policies=(1,)), Rule(allowed_policies=(2,))
        keyset = StoredKeyset("K", ("key_id1", "x"), own)
        material = BundleMaterial("K", keyset, (("key_id1", stored(rule=member)), ("x", None)))
        assert material.rules == (own, member)
        with pytest.raises(SealpodError, match="no rows returned"):
            material.payload()


class TestRequests:
    def test_case_of_type_and_format(self) -> None:
        (parsed,) = parse_requests([RawRequest(GUID, "JSON", "BUNDLE", "K")], guids_are_uuids=True)
        assert parsed == SecretRequest(GUID, "json", SecretKind.BUNDLE, "K")
        assert parsed.label() == "bundle:K"

    def test_online_guids_are_any_text(self) -> None:
        raw = [RawRequest(guid, "", "connection", "") for guid in ("", "x", GUID, GUID.upper())]
        assert [one.guid for one in parse_requests(raw, guids_are_uuids=False)] == [
            "",
            "x",
            GUID,
            GUID.upper(),
        ]

    def test_one_guid_in_two_spellings_is_one_entry(self) -> None:
        raw = [RawRequest(guid, "", "connection", "") for guid in (GUID, GUID.upper())]
        with pytest.raises(UsageError) as caught:
            parse_requests(raw, guids_are_uuids=True)
        assert caught.value.code == "request.duplicate-guid"


class TestBase64:
    @given(st.binary(max_size=100))
    def test_round_trip(self, value: bytes) -> None:
        assert decode_base64(encode_base64(value), limit=100) == value

    @given(st.text(max_size=50))
    def test_one_spelling_per_value(self, text: str) -> None:
        try:
            value = decode_base64(text, limit=100)
        except DecodeError:
            return
        assert encode_base64(value) == text

    @pytest.mark.parametrize(
        "text", ["YQ", "YQ=", "YQ==\n", " YQ==", "YR==", "Y Q==", "YQ==YQ==", "_-8=", "=", "é"]
    )
    def test_other_spellings(self, text: str) -> None:
        with pytest.raises(DecodeError):
            decode_base64(text, limit=100)

    def test_limit(self) -> None:
        assert decode_base64(encode_base64(bytes(10)), limit=10) == bytes(10)
        for size in (11, 12, 13, 1000):
            with pytest.raises(DecodeError):
                decode_base64(encode_base64(bytes(size)), limit=10)


class TestRecords:
    @given(st.text(max_size=50), st.text(max_size=50))
    def test_one_ascii_line_that_cannot_pretend(self, label: str, description: str) -> None:
        line = Decision("GetSecret", "refused", secrets=(label,), description=description).line()
        assert line.isascii()
        assert line.isprintable()
        assert line.startswith('call="GetSecret" outcome="refused" ')
        rest = line.removeprefix('call="GetSecret" outcome="refused" secrets=')
        value, end = json.JSONDecoder().raw_decode(rest)
        assert value == [label]
        if description:
            assert json.loads(rest[end:].removeprefix(" description=")) == description

    def test_stage_keeps_family_code_and_remedy(self) -> None:
        with pytest.raises(RefusedError) as caught, stage("Policy validation failed"):
            raise RefusedError("fw digest not valid", code="policy.digest", remedy="r")
        assert caught.value.message == "Policy validation failed: fw digest not valid"
        assert (caught.value.code, caught.value.remedy) == ("policy.digest", "r")

    def test_secrets_do_not_show(self) -> None:
        assert KEY_B64 not in repr(stored())
        connection = new_connection(asker(lambda size: KEY_B64.encode()[:size]))
        assert str(connection.client_id) in repr(connection)
        assert KEY_B64[:32] not in repr(connection)

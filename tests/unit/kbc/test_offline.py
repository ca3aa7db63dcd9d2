# SPDX-License-Identifier: Apache-2.0
"""offline_sev_kbc: the bundle, key lookup, and errors that do not show keys."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, NotFoundError, VerificationError
from sealpod.kbc.offline import OfflineClient, parse_bundle
from sealpod.ocicrypt import keywrap
from sealpod.ocicrypt.options import PrivateOptions
from sealpod.ocicrypt.packet import AnnotationPacket
from sealpod.secret import SecretBytes
from sealpod.wire.secrettable import OFFLINE_BUNDLE_GUID

KEY = SecretBytes(b"passphrasewhichneedstobe32bytes!")
# The shipped example of simple-kbs' database.
BUNDLE = b'{"key_id1":"RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="}'


def private_options() -> PrivateOptions:
    document = {
        "symkey": base64.b64encode(bytes(range(32))).decode(),
        "digest": f"sha256:{'0' * 64}",
        "cipheroptions": {"nonce": base64.b64encode(bytes(16)).decode()},
    }
    return PrivateOptions.decode(SecretBytes(json.dumps(document).encode()))


def packet(key: SecretBytes, kid: str, algorithm: str = keywrap.AES_256_CTR) -> AnnotationPacket:
    return keywrap.wrap(key, private_options(), kid, algorithm, rng=bytes)


def test_opened_from_the_launch_secret() -> None:
    taken: list[UUID] = []

    def take(guid: UUID) -> SecretBytes:
        taken.append(guid)
        return SecretBytes(BUNDLE)

    client = OfflineClient.open("null", take)
    assert taken == [OFFLINE_BUNDLE_GUID]
    key = SecretBytes(base64.b64decode("RcHGava52DPvj1uoIk/NVDYlwxi0A6yyIZ8ilhEX3X4="))
    assert client.unwrap(packet(key, "key_id1")) == private_options().encode()


@pytest.mark.parametrize("algorithm", [keywrap.AES_256_CTR, keywrap.A256CTR, keywrap.A256GCM])
def test_every_cipher(algorithm: str) -> None:
    client = OfflineClient({"k": KEY})
    assert client.unwrap(packet(KEY, "k", algorithm)) == private_options().encode()


def test_a_kbs_uri_names_the_key_by_its_path() -> None:
    client = OfflineClient({"default/key/one": KEY})
    assert client.unwrap(packet(KEY, "kbs://broker:8080/default/key/one")) == private_options().encode()
    assert client.unwrap(packet(KEY, "kbs:///default/key/one")) == private_options().encode()


def test_an_unknown_key() -> None:
    with pytest.raises(NotFoundError, match="Received unknown key ID: missing") as caught:
        OfflineClient({"k": KEY}).unwrap(packet(KEY, "missing"))
    assert caught.value.code == "kbc.unknown-key"


def test_a_wrong_key_is_noticed() -> None:
    with pytest.raises(VerificationError) as caught:
        OfflineClient({"k": SecretBytes(bytes(32))}).unwrap(packet(KEY, "k"))
    assert caught.value.code == "image.wrong-key"


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [
        (b"", "Failed to parse keys JSON file"),
        (b"[]", "Failed to parse keys JSON file"),
        (b'{"a":1}', "Failed to parse keys JSON file"),
        (b'{"a":"planted!"}', "Failed to decode key"),
        (b'{"a":"cGxhbnRlZA"}', "Failed to decode key"),
        (b'{"a":"\xff"}', "Failed to parse keys JSON file"),
        (b"{" * 5000, "Failed to parse keys JSON file"),
    ],
)
def test_bad_bundles(bundle: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_bundle(SecretBytes(bundle))
    assert caught.value.message == f"Failed to load keys: {reason}"
    assert caught.value.__cause__ is None


def test_an_empty_bundle_is_one() -> None:
    assert parse_bundle(SecretBytes(b"{}")) == {}


@given(st.binary(max_size=100))
def test_noise(data: bytes) -> None:
    with suppress(DecodeError):
        parse_bundle(SecretBytes(data))

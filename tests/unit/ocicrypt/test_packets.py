# SPDX-License-Identifier: Apache-2.0
"""Options, annotations, packets and key wrapping."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, SealpodError, UsageError, VerificationError
from sealpod.ocicrypt import annotations as enc
from sealpod.ocicrypt import keywrap
from sealpod.ocicrypt.options import PrivateOptions, PublicOptions, nonce_of
from sealpod.ocicrypt.packet import AnnotationPacket
from sealpod.secret import SecretBytes

PASSPHRASE = SecretBytes(b"passphrasewhichneedstobe32bytes!")
SAMPLE_KEY = SecretBytes(bytes.fromhex("d99b7705b0ba7a168295b3a3367270b0dd9b371bf514ca8b9ba7f0a33711daea"))
DIGEST = "sha256:" + "ab" * 32
PRIVATE = PrivateOptions(SecretBytes(bytes(range(32))), DIGEST, {"nonce": bytes(16)})


def packet(**fields: Any) -> bytes:
    document = {
        "kid": "key_id1",
        "wrapped_data": "W+nw",
        "iv": "aXZtdXN0YmUxNmJ5dGVzIQ==",
        "wrap_type": "aes_256_ctr",
    }
    return json.dumps({**document, **fields}).encode()


def test_form_a_vector() -> None:
    decoded = AnnotationPacket.decode(packet())
    assert (decoded.kid, decoded.iv, decoded.wrap_type) == ("key_id1", b"ivmustbe16bytes!", "aes_256_ctr")
    assert keywrap._ctr(PASSPHRASE, decoded.iv, decoded.wrapped_data) == b"bar"


def test_wrapping_vectors() -> None:
    plaintext = b'{"symkey":"AA=="}'
    sealed = keywrap._ctr(PASSPHRASE, bytes(16), plaintext)
    assert base64.b64encode(sealed) == b"HLoxmhImhbsLWndVYhhUp3g="
    gcm = keywrap._gcm_seal(SAMPLE_KEY, bytes(12), plaintext)
    assert base64.b64encode(gcm) == b"/3LyhluQ5hn61UcAfnPZO5vneExFEDo3+N7qp0tsSDiL"
    opened = keywrap.unwrap(SAMPLE_KEY, AnnotationPacket("null", gcm, bytes(12), "aes-gcm"))
    assert opened.reveal() == plaintext


def test_written_form_and_member_order() -> None:
    written = AnnotationPacket("key_id1", b"\x01\x02", bytes(16), "aes_256_ctr").encode()
    assert written == (
        b'{"kid":"key_id1","wrapped_data":"AQI=","iv":"AAAAAAAAAAAAAAAAAAAAAA==","wrap_type":"aes_256_ctr"}'
    )


def test_form_b_arrays() -> None:
    decoded = AnnotationPacket.decode(
        packet(kid="null", wrapped_data=[1, 255], iv=[0] * 12, wrap_type="aes-gcm")
    )
    assert decoded == AnnotationPacket("null", b"\x01\xff", bytes(12), "aes-gcm")


@pytest.mark.parametrize(
    ("kid", "key_id"),
    [
        ("key_id1", "key_id1"),
        ("kbs:///default/key/key_id1", "default/key/key_id1"),
        ("kbs://10.0.0.1:8080/default/key/key_id1", "default/key/key_id1"),
        ("/default/key/x", "/default/key/x"),
    ],
)
def test_key_id(kid: str, key_id: str) -> None:
    assert AnnotationPacket.decode(packet(kid=kid)).key_id == key_id


@pytest.mark.parametrize("kid", ["kbs://", "kbs://host", "kbs:///a/b", "kbs:///a/b/c/d", "kbs:////b/c"])
def test_bad_kbs_uri(kid: str) -> None:
    with pytest.raises(DecodeError, match="kbs://<addr-of-kbs>"):
        _ = AnnotationPacket.decode(packet(kid=kid)).key_id


@pytest.mark.parametrize(
    "fields",
    [
        {"kid": ""},
        {"kid": None},
        {"kid": "a\nb"},
        {"kid": "k" * 2000},
        {"wrapped_data": None},
        {"wrapped_data": "W-nw"},
        {"wrapped_data": "W+nw\n"},
        {"wrapped_data": [256]},
        {"wrapped_data": [-1]},
        {"wrapped_data": [True, "1"]},
        {"iv": {}},
        {"wrap_type": 1},
    ],
)
def test_bad_packets(fields: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        AnnotationPacket.decode(packet(**fields))


@pytest.mark.parametrize("algorithm", keywrap.WRITTEN)
def test_wrap_round_trip(algorithm: str) -> None:
    wrapped = keywrap.wrap(PASSPHRASE, PRIVATE, "key_id1", algorithm, rng=lambda size: b"\x07" * size)
    assert wrapped.iv == b"\x07" * keywrap.IV_SIZES[algorithm]
    again = AnnotationPacket.decode(wrapped.encode())
    assert again == wrapped
    assert PrivateOptions.decode(keywrap.unwrap(PASSPHRASE, again)) == PRIVATE


@pytest.mark.parametrize("algorithm", keywrap.WRITTEN)
def test_a_wrong_key_is_named(algorithm: str) -> None:
    wrapped = keywrap.wrap(PASSPHRASE, PRIVATE, "key_id1", algorithm, rng=bytes)
    with pytest.raises(VerificationError, match="'key_id1' is wrong") as caught:
        keywrap.unwrap(SAMPLE_KEY, wrapped)
    assert caught.value.code == "image.wrong-key"
    assert "passphrase" not in caught.value.one_line()


def test_wrap_refuses() -> None:
    with pytest.raises(UsageError, match="31 bytes; need 32"):
        keywrap.wrap(SecretBytes(bytes(31)), PRIVATE, "k", rng=bytes)
    with pytest.raises(UsageError, match="unknown wrap algorithm"):
        keywrap.wrap(PASSPHRASE, PRIVATE, "k", "rot13", rng=bytes)
    with pytest.raises(DecodeError, match="unknown wrap type"):
        keywrap.unwrap(PASSPHRASE, AnnotationPacket("k", b"", bytes(16), "rot13"))
    with pytest.raises(DecodeError, match="needs 12"):
        keywrap.unwrap(PASSPHRASE, AnnotationPacket("k", bytes(20), bytes(16), "A256GCM"))
    with pytest.raises(DecodeError, match="fewer than its tag"):
        keywrap.unwrap(PASSPHRASE, AnnotationPacket("k", bytes(15), bytes(12), "A256GCM"))


@given(st.integers(0, 8 * 209 - 1))
def test_every_bit_of_a_gcm_packet_counts(bit: int) -> None:
    wrapped = keywrap.wrap(PASSPHRASE, PRIVATE, "k", "A256GCM", rng=bytes)
    damaged = bytearray(wrapped.wrapped_data)
    damaged[bit // 8 % len(damaged)] ^= 1 << bit % 8
    with pytest.raises(VerificationError):
        keywrap.unwrap(PASSPHRASE, AnnotationPacket("k", bytes(damaged), wrapped.iv, "A256GCM"))


def test_options_in_gos_member_order() -> None:
    public = PublicOptions(bytes(32))
    b64 = base64.b64encode(bytes(32)).decode()
    assert (
        public.encode().decode()
        == f'{{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"{b64}","cipheroptions":{{}}}}'
    )
    text = PRIVATE.encode().reveal().decode()
    assert list(json.loads(text)) == ["symkey", "digest", "cipheroptions"]
    assert PublicOptions.decode(public.encode()) == public
    assert PrivateOptions.decode(PRIVATE.encode()) == PRIVATE
    assert "symkey=SecretBytes(32 bytes)" in repr(PRIVATE)


@pytest.mark.parametrize(
    "text",
    [
        '{"hmac":""}',
        '{"cipher":"x"}',
        '{"cipher":"AES_256_CTR_HMAC_SHA256"}',
        '{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"AAA="}',
    ],
)
def test_bad_public_options(text: str) -> None:
    with pytest.raises(DecodeError):
        PublicOptions.decode(text.encode())


def test_a_missing_nonce_is_an_error() -> None:
    public = PublicOptions(bytes(32))
    bare = PrivateOptions.decode(
        SecretBytes(b'{"symkey":"%s","cipheroptions":null}' % base64.b64encode(bytes(32)))
    )
    with pytest.raises(DecodeError, match="no nonce"):
        nonce_of(public, bare)
    with pytest.raises(DecodeError, match="15 bytes"):
        nonce_of(PublicOptions(bytes(32), cipher_options={"nonce": bytes(15)}), bare)
    assert nonce_of(PublicOptions(bytes(32), cipher_options={"nonce": b"\1" * 16}), PRIVATE) == b"\1" * 16


def test_annotations() -> None:
    made = enc.encryption([b"one", b"two"], b"public")
    assert made == {
        "org.opencontainers.image.enc.keys.provider.attestation-agent": "b25l,dHdv",
        "org.opencontainers.image.enc.pubopts": "cHVibGlj",
    }
    assert enc.packets(made) == (b"one", b"two")
    assert enc.public_options(made) == b"public"
    assert enc.without_encryption({**made, "kept": "x"}) == {"kept": "x"}
    other = {
        "org.opencontainers.image.enc.keys.jwe": "x",
        "org.opencontainers.image.enc.keys.provider.y": "b25l",
    }
    assert (enc.other_schemes(other), enc.packets(other), enc.has_keys(other)) == (("jwe",), (b"one",), True)


def test_bad_annotations() -> None:
    with pytest.raises(DecodeError, match="not base64"):
        enc.packets({enc.ATTESTATION_AGENT: "b25l,***"})
    with pytest.raises(DecodeError, match="more than 64"):
        enc.packets({enc.ATTESTATION_AGENT: ",".join(["b25l"] * 65)})
    with pytest.raises(DecodeError, match="limit"):
        enc.packets({enc.ATTESTATION_AGENT: "A" * (enc.MAX_VALUE + 1)})
    with pytest.raises(DecodeError, match="without the annotation"):
        enc.public_options({})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 300)
    | st.text(max_size=8)
    | st.sampled_from(["AAAA", "A256GCM"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["kid", "iv", "wrapped_data", "wrap_type", "symkey", "hmac", "cipher", "cipheroptions"]
            ),
            inner,
        )
    ),
    max_leaves=16,
)


@given(st.binary(max_size=120) | JSON.map(lambda value: json.dumps(value).encode()))
def test_decoders_raise_decode_error_only(data: bytes) -> None:
    for decode in (
        AnnotationPacket.decode,
        PublicOptions.decode,
        lambda d: PrivateOptions.decode(SecretBytes(d)),
    ):
        with contextlib.suppress(DecodeError):
            decode(data)


@given(st.binary(max_size=64), st.binary(max_size=20), st.sampled_from([*keywrap.IV_SIZES, "x"]))
def test_unwrap_raises_our_errors_only(data: bytes, iv: bytes, wrap_type: str) -> None:
    with pytest.raises(SealpodError):
        keywrap.unwrap(PASSPHRASE, AnnotationPacket("k", data, iv, wrap_type))

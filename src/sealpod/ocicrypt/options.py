# SPDX-License-Identifier: Apache-2.0
"""Options of an encrypted layer: the public half in the annotations, the private half wrapped in the packets.

::

    public    {"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"<b64 32>","cipheroptions":{}}
    private   {"symkey":"<b64 32>","digest":"sha256:<hex>","cipheroptions":{"nonce":"<b64 16>"}}

Read leniently as Go does (``null`` is absent, unknown members are ignored) but never guess: a missing nonce
or HMAC is an error here, where other implementations invent a nonce or fail much later. ``digest`` is of the
compressed layer before encryption; comparing it is left to the reader of the layer.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Final

from sealpod.errors import DecodeError
from sealpod.ocicrypt.annotations import decode_base64
from sealpod.ocicrypt.cipher import KEY_SIZE, MAC_SIZE, NONCE_SIZE
from sealpod.record import Record, field
from sealpod.secret import SecretBytes
from sealpod.wire import strictjson

CIPHER: Final = "AES_256_CTR_HMAC_SHA256"
NONCE: Final = "nonce"
MAX_OPTIONS: Final = 64 * 1024  # bytes of either document; real ones have 150
START: Final = b'{"symkey":"'
_AS_WRITTEN = re.compile(
    rb'\{"symkey":"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=","digest":"sha256:[0-9a-f]{64}"'
    rb',"cipheroptions":\{"nonce":"[A-Za-z0-9+/]{21}[AQgw]=="\}\}'
)


class PublicOptions(Record):
    """What everybody may know: the cipher and the HMAC of the ciphertext (32 bytes)."""

    hmac: bytes
    cipher: str = CIPHER
    cipher_options: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def decode(cls, data: bytes) -> PublicOptions:
        """The public options in ``data``; DecodeError if the cipher is unknown or the HMAC is missing."""
        what = "public layer options"
        document = strictjson.parse_object(data, what=what, limit=MAX_OPTIONS)
        cipher = strictjson.optional_text(document, "cipher", what=what)
        if cipher != CIPHER:
            raise DecodeError(f"unsupported cipher type: {cipher[:60]!r}", code="image.cipher")
        mac = decode_base64(strictjson.optional_text(document, "hmac", what=what), f"{what}, hmac")
        if len(mac) != MAC_SIZE:
            raise DecodeError(f"{what}: the HMAC has {len(mac)} bytes; need {MAC_SIZE}", code="image.cipher")
        return cls(mac, cipher, _cipher_options(document, what))

    def encode(self) -> bytes:
        """Compact JSON in Go's member order."""
        return strictjson.encode(
            {
                "cipher": self.cipher,
                "hmac": _base64(self.hmac),
                "cipheroptions": {name: _base64(value) for name, value in self.cipher_options.items()},
            }
        )


class PrivateOptions(Record):
    """The layer key, the digest of the layer before encryption, and the cipher's options (the nonce)."""

    symkey: SecretBytes
    digest: str
    cipher_options: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def decode(cls, secret: SecretBytes) -> PrivateOptions:
        """The private options in a decrypted packet; DecodeError (quoting nothing) if they do not parse."""
        what = "private layer options"
        document = strictjson.parse_object(secret.reveal(), what=what, limit=MAX_OPTIONS)
        key = decode_base64(strictjson.optional_text(document, "symkey", what=what), f"{what}, symkey")
        if len(key) != KEY_SIZE:
            raise DecodeError(f"{what}: the key has {len(key)} bytes; need {KEY_SIZE}", code="image.cipher")
        digest = strictjson.optional_text(document, "digest", what=what)
        return cls(SecretBytes(key), digest, _cipher_options(document, what))

    def encode(self) -> SecretBytes:
        """Compact JSON in Go's member order."""
        document = {
            "symkey": _base64(self.symkey.reveal()),
            "digest": self.digest,
            "cipheroptions": {name: _base64(value) for name, value in self.cipher_options.items()},
        }
        return SecretBytes(strictjson.encode(document))


def is_as_written(private: bytes) -> bool:
    """Whether these are private options to the byte as every writer of this cipher writes them.

    Not authenticated, they are worth no leniency: each further form is one more that can be forged, or tells
    by being taken what a character was. So base64 has its unused bits zero.
    """
    return _AS_WRITTEN.fullmatch(private) is not None


def nonce_of(public: PublicOptions, private: PrivateOptions) -> bytes:
    """The nonce (16 bytes), looked up in the public options first, as ocicrypt does."""
    nonce = public.cipher_options.get(NONCE) or private.cipher_options.get(NONCE)
    if nonce is None:
        raise DecodeError("the layer options hold no nonce", code="image.cipher")
    if len(nonce) != NONCE_SIZE:
        raise DecodeError(f"the nonce has {len(nonce)} bytes; need {NONCE_SIZE}", code="image.cipher")
    return nonce


def _cipher_options(document: dict[str, object], what: str) -> dict[str, bytes]:
    options = strictjson.text_map(document, "cipheroptions", what=what)
    return {name: decode_base64(value, f"{what}, {name[:60]}") for name, value in options.items()}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

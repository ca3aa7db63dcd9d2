# SPDX-License-Identifier: Apache-2.0
"""Annotation packets of the attestation agent: a layer's private options wrapped under a key of the broker.

::

    form A   {"kid":"key_id1","wrapped_data":"<b64>","iv":"<b64>","wrap_type":"aes_256_ctr"}
             the same with "kid":"kbs://[host]/<repo>/<type>/<tag>" and "A256GCM" or "A256CTR"
    form B   {"kid":"null","wrapped_data":[1,2,...],"iv":[...],"wrap_type":"aes-gcm"}

Producers differ in the coding of the bytes and in the names of the ciphers; the shape tells them apart. All
four members are needed; others are ignored. Form A is written.
"""

from __future__ import annotations

import base64
from typing import Final

from sealpod.errors import DecodeError
from sealpod.ocicrypt.annotations import decode_base64
from sealpod.record import Record
from sealpod.wire import strictjson

AES_256_CTR: Final = "aes_256_ctr"  # attestation-agent up to 0.4, and what its SEV broker clients read
A256CTR: Final = "A256CTR"  # the same cipher, named by the agent from 0.5 on
A256GCM: Final = "A256GCM"
AES_GCM: Final = "aes-gcm"  # A256GCM in form B

MAX_PACKET: Final = 64 * 1024  # bytes of JSON; real ones have 300
MAX_KID: Final = 1024  # characters
KBS_SCHEME: Final = "kbs://"


class AnnotationPacket(Record):
    """One recipient's wrapped private options. Every member comes from outside and proves nothing."""

    kid: str
    wrapped_data: bytes
    iv: bytes
    wrap_type: str

    @classmethod
    def decode(cls, data: bytes) -> AnnotationPacket:
        """The packet in ``data`` (JSON of form A or B); DecodeError otherwise."""
        what = "key packet"
        document = strictjson.parse_object(data, what=what, limit=MAX_PACKET)
        kid = strictjson.text(document, "kid", what=what)
        if not kid or len(kid) > MAX_KID or not kid.isprintable():
            raise DecodeError(f"{what}: the key id is empty, too long or not printable")
        wrap_type = strictjson.text(document, "wrap_type", what=what)
        return cls(kid, _bytes(document, "wrapped_data"), _bytes(document, "iv"), wrap_type)

    def encode(self) -> bytes:
        """Compact JSON of form A, members in upstream's order."""
        return strictjson.encode(
            {
                "kid": self.kid,
                "wrapped_data": base64.b64encode(self.wrapped_data).decode("ascii"),
                "iv": base64.b64encode(self.iv).decode("ascii"),
                "wrap_type": self.wrap_type,
            }
        )

    @property
    def key_id(self) -> str:
        """What to look the key up by: ``<repo>/<type>/<tag>`` of a kbs URI (host ignored), else ``kid``."""
        if not self.kid.startswith(KBS_SCHEME):
            return self.kid
        _, slash, path = self.kid.removeprefix(KBS_SCHEME).partition("/")
        if not slash or path.count("/") != 2 or not all(path.split("/")):
            raise DecodeError(
                "invalid kbs resource uri, should be kbs://<addr-of-kbs>/<repo>/<type>/<tag>",
                code="image.kid",
            )
        return path


def _bytes(document: dict[str, object], name: str) -> bytes:
    value = document.get(name)
    if isinstance(value, str):
        return decode_base64(value, f"key packet, {name}")
    numbers = strictjson.array(document, name, int, what="key packet")
    if value is None or not all(0 <= number <= 255 for number in numbers):
        raise DecodeError(f"key packet: {name!r} is neither base64 text nor an array of bytes")
    return bytes(numbers)

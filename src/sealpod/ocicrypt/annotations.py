# SPDX-License-Identifier: Apache-2.0
"""Encryption annotations of a layer descriptor (ocicrypt ``spec``, key wrapping annotations).

The value of a ``keys`` annotation is a comma-separated list of base64 packets, one per recipient. Which name
a provider packet is filed under says who made it, not how to read it: producers disagree about the name
(see the guest's keyprovider issues), so every ``provider.*`` list is read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Final

from sealpod.errors import DecodeError

PREFIX: Final = "org.opencontainers.image.enc."
KEYS_PREFIX: Final = f"{PREFIX}keys."
PROVIDER_PREFIX: Final = f"{KEYS_PREFIX}provider."
ATTESTATION_AGENT: Final = f"{PROVIDER_PREFIX}attestation-agent"
PUBLIC_OPTIONS: Final = f"{PREFIX}pubopts"

MAX_PACKETS: Final = 64  # recipients of one layer; every one costs a question to the key broker
MAX_VALUE: Final = 256 * 1024  # characters of one annotation; a packet has about 400


def packets(annotations: Mapping[str, str]) -> tuple[bytes, ...]:
    """The provider packets of a layer, decoded from base64, in order; DecodeError if malformed."""
    found: list[bytes] = []
    for name in sorted(name for name in annotations if name.startswith(PROVIDER_PREFIX)):
        found.extend(decode_base64(part, name) for part in annotations[name].split(",") if part)
        if len(found) > MAX_PACKETS:
            raise DecodeError(f"a layer has more than {MAX_PACKETS} key packets")
    return tuple(found)


def public_options(annotations: Mapping[str, str]) -> bytes:
    """The public options JSON of a layer; DecodeError if it is missing."""
    value = annotations.get(PUBLIC_OPTIONS)
    if value is None:
        raise DecodeError(f"an encrypted layer without the annotation {PUBLIC_OPTIONS}")
    return decode_base64(value, PUBLIC_OPTIONS)


def other_schemes(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Schemes present that this project does not unwrap (``jwe``, ``pgp``, ``pkcs7``, ``pkcs11``)."""
    names = [name.removeprefix(KEYS_PREFIX) for name in annotations if name.startswith(KEYS_PREFIX)]
    return tuple(sorted(name for name in names if not name.startswith("provider.")))


def has_keys(annotations: Mapping[str, str]) -> bool:
    """Whether any recipient's key packet is there."""
    return any(name.startswith(KEYS_PREFIX) for name in annotations)


def encryption(packets: Sequence[bytes], public: bytes) -> dict[str, str]:
    """The annotations of a layer encrypted for the recipients of ``packets``."""
    return {
        ATTESTATION_AGENT: ",".join(base64.b64encode(packet).decode("ascii") for packet in packets),
        PUBLIC_OPTIONS: base64.b64encode(public).decode("ascii"),
    }


def without_encryption(annotations: Mapping[str, str]) -> dict[str, str]:
    """The annotations a decrypted layer keeps."""
    return {name: value for name, value in annotations.items() if not name.startswith(PREFIX)}


def decode_base64(text: str, what: str) -> bytes:
    """Standard alphabet, padded, strict; DecodeError otherwise."""
    if len(text) > MAX_VALUE:
        raise DecodeError(f"{what} has {len(text)} characters, more than the limit of {MAX_VALUE}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DecodeError(f"{what} is not base64") from error

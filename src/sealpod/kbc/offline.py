# SPDX-License-Identifier: Apache-2.0
"""``offline_sev_kbc``: all keys came with the launch secret, as JSON ``{"<key id>": "<base64 key>"}``.

No network is needed after the launch. The bundle is taken (and wiped) when the client is opened; a key that
is not in it cannot be had later. The URI part of ``aa_kbc_params`` has no meaning here (``null``).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

from sealpod.errors import DecodeError, NotFoundError
from sealpod.kbc.secretarea import MAX_AREA
from sealpod.ocicrypt import keywrap
from sealpod.ocicrypt.packet import AnnotationPacket
from sealpod.secret import SecretBytes
from sealpod.wire import strictjson
from sealpod.wire.secrettable import OFFLINE_BUNDLE_GUID

NAME: Final = "offline_sev_kbc"


class OfflineClient:
    """Keys by key id, held in memory."""

    def __init__(self, keys: Mapping[str, SecretBytes]) -> None:
        self._keys = dict(keys)

    @classmethod
    def open(cls, uri: str, take: Callable[[UUID], SecretBytes]) -> OfflineClient:
        """``take`` gives the entry of the launch secret filed under a GUID."""
        return cls(parse_bundle(take(OFFLINE_BUNDLE_GUID)))

    def unwrap(self, packet: AnnotationPacket) -> SecretBytes:
        """See :class:`sealpod.kbc.port.KeyBrokerClient`."""
        key = self._keys.get(packet.key_id)
        if key is None:
            raise NotFoundError(
                f"Received unknown key ID: {packet.key_id}",
                code="kbc.unknown-key",
                remedy="add the key to the keyset that is released at launch",
            )
        return keywrap.unwrap(key, packet)


def parse_bundle(bundle: SecretBytes) -> dict[str, SecretBytes]:
    """Keys of a bundle. No text of the bundle enters the error, nor does its cause, which could quote it."""
    try:
        document = strictjson.parse_object(bundle.reveal(), what="key bundle", limit=MAX_AREA)
    except DecodeError:
        raise _unloadable("Failed to parse keys JSON file") from None
    return {kid: _key(value) for kid, value in document.items()}


def _key(value: object) -> SecretBytes:
    if not isinstance(value, str):
        raise _unloadable("Failed to parse keys JSON file")
    try:
        return SecretBytes(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        raise _unloadable("Failed to decode key") from None


def _unloadable(reason: str) -> DecodeError:
    return DecodeError(f"Failed to load keys: {reason}", code="kbc.bundle")

# SPDX-License-Identifier: Apache-2.0
"""Which request an online reply answers: an extension of simple-kbs' protocol.

A guest's online request is neither encrypted nor authenticated; the reply is. The guest draws a GUID and
finds the secret under it, which shows that the reply is fresh. But the GUID stands in the request in the
clear: somebody on the way can keep it and ask for *another* secret under it, and the guest takes that for the
one it wanted. So the broker adds one entry to the reply's map, named :data:`BINDING_NAME`: the SHA-256 of the
request it answers. A client that does not know the entry does not look at it.

That the entry must be there cannot be announced in the exchange itself, which somebody on the way controls.
The client id says it: one of UUID version 8 (RFC 9562, "custom") belongs to a broker that binds its replies.
It comes to the guest in the launch secret, which only the broker can have made. Without it a guest checks the
entry when there is one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

BINDING_NAME: Final = "sealpod-request-sha256"
"""The entry's name in the map; no GUID, so that none can be mistaken for it."""
BINDING_VERSION: Final = 8
"""Version of client ids whose replies carry the entry."""

_CONTEXT: Final = b"sealpod online request 1"
_LENGTH = struct.Struct("<Q")


def request_digest(client_id: str, details: Sequence[Sequence[str]]) -> bytes:
    """SHA-256 over a request as its sender meant it.

    ::

        "sealpod online request 1"
        then each text as LE64(its bytes in UTF-8) and these bytes:
        ClientId, and of every RequestDetails: Guid, Format, SecretType, Id, Nonce, Audience

    in the order and spelling in which they were sent; a field that was not sent is empty.
    """
    # The guest has it loaded; ``hashlib`` would load a second copy of the same library there.
    from cryptography.hazmat.primitives import hashes

    digest = hashes.Hash(hashes.SHA256())
    digest.update(_CONTEXT)
    for text in (client_id, *(text for one in details for text in one)):
        digest.update(_sized(text.encode()))
    return digest.finalize()


def _sized(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value

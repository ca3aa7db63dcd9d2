# SPDX-License-Identifier: Apache-2.0
"""The transport keys of a launch in progress: sealed when its bundle is made, opened when it asks.

Sealed together with all that is kept of the launch, so that who may write to the database but has no
key-encryption key cannot give it another policy, another platform or more time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from uuid import UUID

from sealpod.errors import VerificationError
from sealpod.kbs.core.context import Context
from sealpod.kbs.core.launching import launch_unknown
from sealpod.kbs.core.records import Launch, Platform
from sealpod.secret import SecretBytes
from sealpod.sev.session import KEY_SIZE, Session, TransportKeys

_CONTEXT: Final = b"sealpod launch keys 2"


def sealed_launch(context: Context, session: Session, platform: Platform) -> Launch:
    """A new launch with the keys of its session."""
    now = context.clock()
    launch_id = UUID(bytes=context.rng(16), version=4)
    plain = SecretBytes(session.keys.tek.reveal() + session.keys.tik.reveal())
    launch = Launch(launch_id, session.policy.value, b"", platform, now, now + context.limits.launch_ttl)
    return replace(launch, sealed_keys=context.sealer.seal(plain, context=_belongs(launch)))


def open_keys(context: Context, launch: Launch) -> TransportKeys:
    """:raise NotFoundError: ``launch.unknown``: nobody can open them any more."""
    try:
        opened = context.sealer.open(launch.sealed_keys, context=_belongs(launch))
    except VerificationError as error:
        # Opened by a broker whose key is gone, and with it the launch.
        raise launch_unknown(launch.id) from error
    plain = opened.reveal()
    return TransportKeys(SecretBytes(plain[:KEY_SIZE]), SecretBytes(plain[KEY_SIZE:]))


def _belongs(launch: Launch) -> bytes:
    # In milliseconds, which every database gives back as they were.
    ends = b"%d\0" % round(launch.expires_at * 1000)
    platform = "\0".join(
        (launch.platform.root, launch.platform.ark, launch.platform.chain, launch.platform.chip)
    )
    return _CONTEXT + launch.id.bytes + launch.policy.to_bytes(4, "little") + ends + platform.encode()

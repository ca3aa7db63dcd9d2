# SPDX-License-Identifier: Apache-2.0
"""The transport keys of a launch in progress: sealed when its bundle is made, opened when it asks."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sealpod.errors import VerificationError
from sealpod.kbs.core.context import Context
from sealpod.kbs.core.launching import launch_unknown
from sealpod.kbs.core.records import Launch, Platform
from sealpod.secret import SecretBytes
from sealpod.sev.session import KEY_SIZE, Session, TransportKeys

_CONTEXT: Final = b"sealpod launch keys 1"


def sealed_launch(context: Context, session: Session, platform: Platform) -> Launch:
    """A new launch with the keys of its session."""
    now = context.clock()
    launch_id = UUID(bytes=context.rng(16), version=4)
    plain = SecretBytes(session.keys.tek.reveal() + session.keys.tik.reveal())
    sealed = context.sealer.seal(plain, context=_belongs(launch_id, session.policy.value))
    return Launch(launch_id, session.policy.value, sealed, platform, now, now + context.limits.launch_ttl)


def open_keys(context: Context, launch: Launch) -> TransportKeys:
    """:raise NotFoundError: ``launch.unknown``: nobody can open them any more."""
    try:
        opened = context.sealer.open(launch.sealed_keys, context=_belongs(launch.id, launch.policy))
    except VerificationError as error:
        # Opened by a broker whose key is gone, and with it the launch.
        raise launch_unknown(launch.id) from error
    plain = opened.reveal()
    return TransportKeys(SecretBytes(plain[:KEY_SIZE]), SecretBytes(plain[KEY_SIZE:]))


def _belongs(launch_id: UUID, policy: int) -> bytes:
    return _CONTEXT + launch_id.bytes + policy.to_bytes(4, "little")

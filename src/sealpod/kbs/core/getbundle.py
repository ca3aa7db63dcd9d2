# SPDX-License-Identifier: Apache-2.0
"""GetBundle: open a launch on a platform whose chain ends in a trusted root, under an SEV policy.

1. decode the chain and verify it up to a trusted root; 2. agree on a session with its PDH and wrap fresh
transport keys; 3. keep the launch with its keys sealed.
"""

from __future__ import annotations

from sealpod.kbs.core import deciding
from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.context import Context
from sealpod.kbs.core.deciding import Prepared
from sealpod.kbs.core.encoding import encode_base64
from sealpod.kbs.core.launchkeys import sealed_launch
from sealpod.kbs.core.messages import Bundle
from sealpod.kbs.core.records import Change
from sealpod.sev.policy import Policy
from sealpod.sev.session import Session


def prepare(context: Context, decision: Decision, chain: str, policy_word: int) -> Prepared[Bundle]:
    """The bundle for the platform of ``chain`` (base64).

    :raise DecodeError: malformed chain. :raise VerificationError: ``chain.*``.
    """
    decision.policy = deciding.hex_word(policy_word)
    policy = Policy.from_int(policy_word)
    verified = context.chains.verify(chain)  # (1)
    deciding.name_platform(decision, verified.platform)
    key = None if context.new_key is None else context.new_key()
    session = Session.create(verified.pdh, policy, rng=context.rng, godh_key=key)  # (2)
    launch = sealed_launch(context, session, verified.platform)
    decision.launch = str(launch.id)
    bundle = Bundle(
        godh=encode_base64(session.godh.encode()),
        session=encode_base64(session.blob),
        launch_id=str(launch.id),
    )
    return Prepared(Change(decision, opens=launch), bundle)  # (3)

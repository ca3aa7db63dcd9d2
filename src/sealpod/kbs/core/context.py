# SPDX-License-Identifier: Apache-2.0
"""What the three calls share: the broker's ports and limits, and the steps every release goes through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.kbs.core import deciding, stage
from sealpod.kbs.core.asker import Asker
from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.evidence import Evidence, check_version_bytes
from sealpod.kbs.core.gathering import gather
from sealpod.kbs.core.launching import ChainVerifier
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.lookups import Lookups
from sealpod.kbs.core.material import Material
from sealpod.kbs.core.policy import Rule
from sealpod.kbs.core.ports import BrokerStore, ResourceFiles, Sealer
from sealpod.kbs.core.records import Platform
from sealpod.kbs.core.request import RawRequest, SecretRequest, parse_requests

MAX_LOGGED: Final = 64
"""Characters of a stranger's id in the records."""

Rng = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Context:
    """See :class:`sealpod.kbs.core.broker.KeyBroker`."""

    store: BrokerStore
    sealer: Sealer
    chains: ChainVerifier
    clock: Callable[[], float]
    rng: Rng
    default_rule: Rule
    limits: Limits
    files: ResourceFiles
    new_key: Callable[[], ec.EllipticCurvePrivateKey] | None

    def asker(self, evidence: Evidence, platform: Platform | None) -> Asker:
        """Who asks, now."""
        return Asker(evidence, platform, self.clock(), self.limits.report_ttl, self.rng, self.files)

    def approve(
        self, decision: Decision, requests: Sequence[SecretRequest], asker: Asker
    ) -> tuple[Material, ...]:
        """What answers the requests, once every policy has agreed. :raise SealpodError: one has not."""
        evidence = asker.evidence
        with stage.stage(stage.POLICY):
            check_version_bytes(evidence.api_major, evidence.api_minor, evidence.build_id)
            deciding.check_rules(decision, (self.default_rule,), evidence)
            lookups = Lookups(self.store)
            materials = tuple(gather(lookups, one, asker) for one in requests)
            rules = tuple(rule for material in materials for rule in material.rules)
            deciding.check_rules(decision, rules, evidence)
        return materials


def parse(
    decision: Decision, raw: Sequence[RawRequest], *, guids_are_uuids: bool
) -> tuple[SecretRequest, ...]:
    """The requests, which the decision then names. :raise SealpodError: one is malformed."""
    with stage.stage(stage.REQUEST):
        requests = parse_requests(raw, guids_are_uuids=guids_are_uuids)
    decision.secrets = tuple(request.label() for request in requests)
    return requests

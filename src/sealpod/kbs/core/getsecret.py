# SPDX-License-Identifier: Apache-2.0
"""GetSecret: release secrets to a measured launch. In this order, so that the texts are simple-kbs':

1. the launch id and the requests are well formed;
2. the launch is in progress (nobody else is worth looking anything up for: simple-kbs asks this after 3);
3. the claimed version fits the measurement, and every policy agrees (a refusal here costs the caller nothing:
   it may ask again with the same launch id); the platform's root is trusted still, and the launch was opened
   under the policy now claimed (stops a host that opens a debuggable launch and claims a strict policy for
   the release);
4. measurement and digest are well formed, everything asked for exists and fits the guest's area;
5. the measurement proves digest, policy and version, and the table is sealed for this launch;
6. the launch id is spent, whether (5) held or not, new connections are kept and the decision is written down:
   of racing callers one goes on, and nobody after it. Who lost the race does not learn what (5) came to.
"""

from __future__ import annotations

from collections.abc import Sequence

from sealpod.errors import RefusedError, VerificationError
from sealpod.kbs.core import deciding, stage
from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.context import MAX_LOGGED, Context, parse
from sealpod.kbs.core.deciding import Prepared
from sealpod.kbs.core.encoding import encode_base64
from sealpod.kbs.core.evidence import Evidence
from sealpod.kbs.core.gathering import connections_of, entries_of, labels_of
from sealpod.kbs.core.launching import launch_unknown
from sealpod.kbs.core.launchkeys import open_keys
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.material import Material
from sealpod.kbs.core.messages import SealedSecrets, SecretClaim
from sealpod.kbs.core.records import Change, Launch
from sealpod.kbs.core.request import SecretRequest
from sealpod.secret import SecretBytes
from sealpod.sev.measurement import Measurement, VerifiedLaunch, verify_measurement
from sealpod.sev.packet import IV_SIZE
from sealpod.sev.policy import Policy
from sealpod.sev.session import TransportKeys
from sealpod.sev.version import FirmwareVersion
from sealpod.wire import secrettable
from sealpod.wire.guid import parse_guid


def prepare(context: Context, decision: Decision, claim: SecretClaim) -> Prepared[SealedSecrets]:
    """What the launch gets, or that it is spent on a measurement that proves nothing.

    :raise SealpodError: as each step says; texts as in :mod:`sealpod.kbs.core.stage`.
    """
    decision.launch = claim.launch_id[:MAX_LOGGED]
    evidence = claim.evidence()
    deciding.describe(decision, evidence)
    with stage.stage(stage.LAUNCH_ID):  # (1)
        launch_id = parse_guid(claim.launch_id)
    launch = context.store.find_launch(launch_id, now=context.clock())
    deciding.name_platform(decision, None if launch is None else launch.platform)
    requests = parse(decision, claim.requests, guids_are_uuids=True)
    if launch is None:  # (2)
        raise launch_unknown(launch_id)
    materials = context.approve(decision, requests, context.asker(evidence, launch.platform))  # (3)
    context.chains.check_root(launch.platform)
    _same_policy(decision, launch, evidence)
    measurement = claim.measured(evidence)  # (4)
    table = _table(requests, materials, context.limits)
    keys = open_keys(context, launch)
    try:
        sealed = _seal(_verify(keys, launch, evidence, measurement), table, context.rng(IV_SIZE))  # (5)
    except VerificationError as error:
        return Prepared(Change(decision, spends=launch.id), error)  # (6)
    decision.released = labels_of(materials)
    return Prepared(Change(decision, spends=launch.id, connections=connections_of(materials)), sealed)


def _same_policy(decision: Decision, launch: Launch, evidence: Evidence) -> None:
    if launch.policy != evidence.policy:
        opened, claimed = deciding.hex_word(launch.policy), deciding.hex_word(evidence.policy)
        deciding.fail(decision, "launch bundle", "sev-policy", (opened,), claimed)
        raise RefusedError(
            f"{stage.POLICY}: policy {claimed} is not the one of the launch bundle, {opened}",
            code="policy.mismatch",
            remedy="ask for the secret with the policy the bundle was made for",
        )


def _table(requests: Sequence[SecretRequest], materials: Sequence[Material], limits: Limits) -> SecretBytes:
    with stage.stage(stage.FULFILL):
        entries = [
            (parse_guid(guid), payload.reveal())
            for guid, payload in entries_of(requests, materials, limits.online_reply)
        ]
        table = SecretBytes(secrettable.encode(entries))
        if len(table) > limits.secret_area:
            raise RefusedError(
                f"secret table too large: {len(table)} bytes, the guest has {limits.secret_area}",
                code="secret.table-too-large",
                remedy="ask for fewer secrets, or for a connection and the rest online",
            )
    return table


def _verify(
    keys: TransportKeys, launch: Launch, evidence: Evidence, measurement: Measurement
) -> VerifiedLaunch:
    version = FirmwareVersion(evidence.api_major, evidence.api_minor, evidence.build_id)
    with stage.stage(stage.MEASUREMENT):
        return verify_measurement(
            keys, Policy.from_int(launch.policy), version, evidence.digest_bytes(), measurement
        )


def _seal(verified: VerifiedLaunch, table: SecretBytes, iv: bytes) -> SealedSecrets:
    with stage.stage(stage.PACKAGE):
        packet = verified.pack(table.reveal(), iv=iv)
    return SealedSecrets(header=encode_base64(packet.header), data=encode_base64(packet.data))

# SPDX-License-Identifier: Apache-2.0
"""The three calls of the key broker, as procedures over its ports.

``get_bundle`` opens a launch on a platform whose chain ends in a trusted root; ``get_secret`` releases
secrets to that launch once its measurement proves what runs in it; ``get_online_secret`` releases further
ones to the guest that got a connection. What differs from simple-kbs on purpose: roots are pinned, the SEV
policy is the bundle's own, numbers that do not fit the measurement are refused, a policy that cannot be read
refuses, and a request is checked in full before the launch id is spent on it.

Each call ends in exactly one decision. A call that grants prepares its whole reply first; then the decision
and what it changes are written down, together or not at all; then the reply leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.errors import NotFoundError, RefusedError, SealpodError, VerificationError
from sealpod.kbs.core import deciding, stage
from sealpod.kbs.core.audit import Caller, Decision, timestamp
from sealpod.kbs.core.deciding import Prepared
from sealpod.kbs.core.encoding import encode_base64
from sealpod.kbs.core.evidence import Evidence, check_version_bytes
from sealpod.kbs.core.launching import ChainVerifier, launch_unknown
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.material import NO_ROWS, Asker, Material, NoFiles, gather
from sealpod.kbs.core.messages import Bundle, OnlineReply, SealedSecrets, SecretClaim
from sealpod.kbs.core.online import IV_SIZE, encrypt_reply
from sealpod.kbs.core.policy import ALLOW_ALL, Rule
from sealpod.kbs.core.ports import Auditor, BrokerStore, ResourceFiles, Sealer
from sealpod.kbs.core.records import Change, Connection, Launch, Platform
from sealpod.kbs.core.request import RawRequest, SecretRequest, parse_requests
from sealpod.secret import SecretBytes
from sealpod.sev.measurement import Measurement, VerifiedLaunch, verify_measurement
from sealpod.sev.packet import IV_SIZE as PACKET_IV_SIZE
from sealpod.sev.policy import Policy
from sealpod.sev.session import KEY_SIZE, Session, TransportKeys
from sealpod.sev.version import FirmwareVersion
from sealpod.wire import secrettable
from sealpod.wire.binding import BINDING_NAME, BINDING_VERSION, request_digest
from sealpod.wire.guid import parse_guid

MAX_LOGGED: Final = 64
"""Characters of a stranger's id in the records."""

_CONTEXT: Final = b"sealpod launch keys 1"

Rng = Callable[[int], bytes]
Reply = TypeVar("Reply")
Entries = list[tuple[str, SecretBytes]]


class KeyBroker:
    """Safe to call from several threads when its store is.

    ``trusted`` maps the hex SHA-256 of an ARK to the name of that root; ``clock`` gives seconds since the
    epoch; ``rng(n)`` gives n random bytes fit for keys; ``new_key`` gives fresh keys on P-384, without it
    they are made from ``rng``, which takes twice as long.
    """

    def __init__(
        self,
        *,
        store: BrokerStore,
        sealer: Sealer,
        auditor: Auditor,
        trusted: Mapping[str, str],
        clock: Callable[[], float],
        rng: Rng,
        default_rule: Rule = ALLOW_ALL,
        limits: Limits | None = None,
        files: ResourceFiles | None = None,
        new_key: Callable[[], ec.EllipticCurvePrivateKey] | None = None,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._auditor = auditor
        self._clock = clock
        self._rng = rng
        self._new_key = new_key
        self._default_rule = default_rule
        self._limits = Limits() if limits is None else limits
        self._files = NoFiles() if files is None else files
        self._chains = ChainVerifier(trusted, size=self._limits.chain_cache)

    def trust(self, trusted: Mapping[str, str]) -> None:
        """From now on, launches begin on platforms under these roots only."""
        self._chains.trust(trusted)

    def get_bundle(self, chain: str, policy_word: int, *, caller: Caller | None = None) -> Bundle:
        """Open a launch on the platform of ``chain`` (base64) under an SEV policy.

        1. decode the chain and verify it up to a trusted root; 2. agree on a session with its PDH and wrap
        fresh transport keys; 3. keep the launch with its keys sealed.

        :raise DecodeError: malformed chain. :raise VerificationError: ``chain.*``.
        :raise RefusedError: ``launch.too-many``.
        """

        def prepare(decision: Decision) -> Prepared[Bundle]:
            decision.policy = deciding.hex_word(policy_word)
            policy = Policy.from_int(policy_word)
            verified = self._chains.verify(chain)  # (1)
            deciding.name_platform(decision, verified.platform)
            key = None if self._new_key is None else self._new_key()
            session = Session.create(verified.pdh, policy, rng=self._rng, godh_key=key)  # (2)
            launch = self._sealed_launch(session, verified.platform)
            decision.launch = str(launch.id)
            bundle = Bundle(
                godh=encode_base64(session.godh.encode()),
                session=encode_base64(session.blob),
                launch_id=str(launch.id),
            )
            return Prepared(Change(decision, opens=launch), bundle)  # (3)

        return self._decide("GetBundle", caller, prepare, step=stage.BUNDLE)

    def get_secret(self, claim: SecretClaim, *, caller: Caller | None = None) -> SealedSecrets:
        """Release secrets to a measured launch. In this order, so that the texts are simple-kbs':

        1. the launch id and the requests are well formed;
        2. the claimed version fits the measurement, and every policy agrees (a refusal here costs the
           caller nothing: it may ask again with the same launch id);
        3. the launch is in progress, on a platform whose root is trusted still, and was opened under the
           policy now claimed (stops a host that opens a debuggable launch and claims a strict policy for the
           release);
        4. measurement and digest are well formed, everything asked for exists and fits the guest's area;
        5. the measurement proves digest, policy and version, and the table is sealed for this launch;
        6. the launch id is spent, whether (5) held or not, new connections are kept and the decision is
           written down: of racing callers one goes on, and nobody after it. Who lost the race does not learn
           what (5) came to.

        :raise SealpodError: as each step says; texts as in :mod:`sealpod.kbs.core.stage`.
        """

        def prepare(decision: Decision) -> Prepared[SealedSecrets]:
            decision.launch = claim.launch_id[:MAX_LOGGED]
            evidence = claim.evidence()
            deciding.describe(decision, evidence)
            with stage.stage(stage.LAUNCH_ID):  # (1)
                launch_id = parse_guid(claim.launch_id)
            launch = self._store.find_launch(launch_id, now=self._clock())
            platform = None if launch is None else launch.platform
            deciding.name_platform(decision, platform)
            requests = self._parse(decision, claim.requests, guids_are_uuids=True)
            materials = self._approve(decision, requests, self._asker(evidence, platform))  # (2)
            if launch is None:  # (3)
                raise launch_unknown(launch_id)
            self._chains.check_root(launch.platform)
            _same_policy(decision, launch, evidence)
            measurement = claim.measured(evidence)  # (4)
            table = self._table(requests, materials)
            keys = self._open_keys(launch)
            try:
                sealed = self._seal(_verify(keys, launch, evidence, measurement), table)  # (5)
            except VerificationError as error:
                return Prepared(Change(decision, spends=launch.id), error)  # (6)
            decision.released = _released(materials)
            return Prepared(Change(decision, spends=launch.id, connections=_made(materials)), sealed)

        return self._decide("GetSecret", caller, prepare)

    def get_online_secret(
        self, client_id: str, raw: Sequence[RawRequest], *, caller: Caller | None = None
    ) -> OnlineReply:
        """Release secrets to a running guest.

        1. the client id is well formed, known, its time is not over, and the root of its platform is trusted
        still; 2. the requests are well formed;
        3. every policy agrees with what the guest's launch was; 4. everything exists; 5. encrypt under the
        connection's key, bound to this request; 6. the connection has replies left, and the decision is
        written down.

        The request is not authenticated: who has the key can read the reply, and only that.

        :raise SealpodError: as each step says; ``connection.*``.
        """

        def prepare(decision: Decision) -> Prepared[OnlineReply]:
            decision.client = client_id[:MAX_LOGGED]
            connection = self._connection(client_id)  # (1)
            deciding.describe(decision, connection.evidence)
            deciding.name_platform(decision, connection.platform)
            requests = self._parse(decision, raw, guids_are_uuids=False)  # (2)
            asker = self._asker(connection.evidence, connection.platform)
            materials = self._approve(decision, requests, asker)  # (3)
            with stage.stage(stage.FULFILL):  # (4)
                entries = _entries(requests, materials, self._limits.online_reply)
            reply = self._encrypt(connection, client_id, raw, entries)  # (5)
            decision.released = _released(materials)
            change = Change(decision, uses=connection.client_id, connections=_made(materials))  # (6)
            return Prepared(change, reply)

        return self._decide("GetOnlineSecret", caller, prepare)

    def _decide(
        self,
        call: str,
        caller: Caller | None,
        prepare: Callable[[Decision], Prepared[Reply]],
        *,
        step: str = "",
    ) -> Reply:
        """Prepare, write down, pass on, and only then answer. ``step`` comes before the text of a refusal."""
        decision = deciding.begin(call, caller, rng=self._rng)
        try:
            with stage.stage(step):
                prepared = prepare(decision)
                now = self._clock()
                deciding.conclude(decision, prepared.reply, timestamp(now))
                entry = self._store.settle(prepared.change, now=now, limits=self._limits)
        except Exception as error:
            self._record_refusal(decision, error)
            raise
        self._auditor.record(decision, entry)
        if isinstance(prepared.reply, SealpodError):
            raise prepared.reply
        return prepared.reply

    def _record_refusal(self, decision: Decision, error: Exception) -> None:
        now = self._clock()
        deciding.refuse(decision, error, timestamp(now))
        try:
            entry = self._store.settle(Change(decision), now=now, limits=self._limits)
        except SealpodError:
            # The refusal stands without its record: there is nothing it could release.
            entry = None
        self._auditor.record(decision, entry)

    def _asker(self, evidence: Evidence, platform: Platform | None) -> Asker:
        return Asker(evidence, platform, self._clock(), self._limits.report_ttl, self._rng, self._files)

    def _sealed_launch(self, session: Session, platform: Platform) -> Launch:
        now = self._clock()
        launch_id = UUID(bytes=self._rng(16), version=4)
        plain = SecretBytes(session.keys.tek.reveal() + session.keys.tik.reveal())
        sealed = self._sealer.seal(plain, context=_launch_context(launch_id, session.policy.value))
        return Launch(launch_id, session.policy.value, sealed, platform, now, now + self._limits.launch_ttl)

    def _open_keys(self, launch: Launch) -> TransportKeys:
        try:
            opened = self._sealer.open(launch.sealed_keys, context=_launch_context(launch.id, launch.policy))
        except VerificationError as error:
            # Opened by a broker whose key is gone, and with it the launch.
            raise launch_unknown(launch.id) from error
        plain = opened.reveal()
        return TransportKeys(SecretBytes(plain[:KEY_SIZE]), SecretBytes(plain[KEY_SIZE:]))

    def _connection(self, client_id: str) -> Connection:
        with stage.stage(stage.CLIENT_ID):
            client = parse_guid(client_id)
        with stage.stage(stage.CONNECTION):
            connection = self._store.find_connection(client)
            if connection is None:
                raise NotFoundError(NO_ROWS, code="connection.unknown", remedy=_CONNECTION_REMEDY)
            began = connection.created_at
            self._chains.check_root(connection.platform)
            if began is not None and began + self._limits.connection_ttl <= self._clock():
                raise RefusedError("its time is over", code="connection.expired", remedy=_CONNECTION_REMEDY)
        return connection

    def _parse(
        self, decision: Decision, raw: Sequence[RawRequest], *, guids_are_uuids: bool
    ) -> tuple[SecretRequest, ...]:
        with stage.stage(stage.REQUEST):
            requests = parse_requests(raw, guids_are_uuids=guids_are_uuids)
        decision.secrets = tuple(request.label() for request in requests)
        return requests

    def _approve(
        self, decision: Decision, requests: Sequence[SecretRequest], asker: Asker
    ) -> tuple[Material, ...]:
        evidence = asker.evidence
        with stage.stage(stage.POLICY):
            check_version_bytes(evidence.api_major, evidence.api_minor, evidence.build_id)
            deciding.check_rules(decision, (self._default_rule,), evidence)
            materials = tuple(gather(self._store, one, asker) for one in requests)
            rules = tuple(rule for material in materials for rule in material.rules)
            deciding.check_rules(decision, rules, evidence)
        return materials

    def _table(self, requests: Sequence[SecretRequest], materials: Sequence[Material]) -> SecretBytes:
        with stage.stage(stage.FULFILL):
            entries = [
                (parse_guid(guid), payload.reveal())
                for guid, payload in _entries(requests, materials, self._limits.online_reply)
            ]
            table = SecretBytes(secrettable.encode(entries))
            if len(table) > self._limits.secret_area:
                raise RefusedError(
                    f"secret table too large: {len(table)} bytes, the guest has {self._limits.secret_area}",
                    code="secret.table-too-large",
                    remedy="Ask for fewer secrets, or for a connection and the rest online",
                )
        return table

    def _seal(self, verified: VerifiedLaunch, table: SecretBytes) -> SealedSecrets:
        with stage.stage(stage.PACKAGE):
            packet = verified.pack(table.reveal(), iv=self._rng(PACKET_IV_SIZE))
        return SealedSecrets(header=encode_base64(packet.header), data=encode_base64(packet.data))

    def _encrypt(
        self, connection: Connection, client_id: str, raw: Sequence[RawRequest], entries: Entries
    ) -> OnlineReply:
        if connection.client_id.version == BINDING_VERSION:
            digest = request_digest(client_id, [one.texts() for one in raw])
            entries = [*entries, (BINDING_NAME, SecretBytes(digest))]
        iv = self._rng(IV_SIZE)
        with stage.stage(stage.ENCRYPT):
            payload = encrypt_reply(connection.key, entries, iv=iv)
        return OnlineReply(payload=encode_base64(payload), iv=encode_base64(iv))


_CONNECTION_REMEDY: Final = "Launch the guest again: its connection is not known to this key broker any more"


def _launch_context(launch_id: UUID, policy: int) -> bytes:
    return _CONTEXT + launch_id.bytes + policy.to_bytes(4, "little")


def _same_policy(decision: Decision, launch: Launch, evidence: Evidence) -> None:
    if launch.policy != evidence.policy:
        opened, claimed = deciding.hex_word(launch.policy), deciding.hex_word(evidence.policy)
        deciding.fail(decision, "launch bundle", "sev-policy", (opened,), claimed)
        raise RefusedError(
            f"{stage.POLICY}: policy {claimed} is not the one of the launch bundle, {opened}",
            code="policy.mismatch",
            remedy="Ask for the secret with the policy the bundle was made for",
        )


def _verify(
    keys: TransportKeys, launch: Launch, evidence: Evidence, measurement: Measurement
) -> VerifiedLaunch:
    version = FirmwareVersion(evidence.api_major, evidence.api_minor, evidence.build_id)
    with stage.stage(stage.MEASUREMENT):
        return verify_measurement(
            keys, Policy.from_int(launch.policy), version, evidence.digest_bytes(), measurement
        )


def _entries(requests: Sequence[SecretRequest], materials: Sequence[Material], limit: int) -> Entries:
    """Name and payload of each, stopping as soon as they are more than anybody could be sent."""
    entries: Entries = []
    size = 0
    for request, material in zip(requests, materials, strict=True):
        payload = material.payload()
        size += len(payload)
        if size > limit:
            raise RefusedError(
                f"reply too large: more than {limit} bytes",
                code="secret.reply-too-large",
                remedy="Ask for fewer secrets at a time",
            )
        entries.append((request.guid, payload))
    return entries


def _made(materials: Sequence[Material]) -> tuple[Connection, ...]:
    return tuple(one for material in materials for one in material.connections)


def _released(materials: Sequence[Material]) -> tuple[str, ...]:
    return tuple(one for material in materials for one in material.released)

# SPDX-License-Identifier: Apache-2.0
"""The three calls of the key broker, as procedures over its ports.

``get_bundle`` opens a launch on a platform whose chain ends in a trusted root; ``get_secret`` releases
secrets to that launch once its measurement proves what runs in it; ``get_online_secret`` releases further
ones to the guest that got a connection. What differs from simple-kbs on purpose: roots are pinned, the SEV
policy is the bundle's own, numbers that do not fit the measurement are refused, a policy that cannot be read
refuses, and a request is checked in full before the launch id is spent on it.

Each call leaves exactly one :class:`~sealpod.kbs.core.audit.Decision`, taken down before the reply leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sealpod.errors import DecodeError, NotFoundError, RefusedError, SealpodError, VerificationError
from sealpod.kbs.core import stage
from sealpod.kbs.core.audit import Decision
from sealpod.kbs.core.encoding import decode_base64, encode_base64
from sealpod.kbs.core.evidence import Evidence, check_version_bytes, clean_description
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.material import NO_ROWS, Material, gather
from sealpod.kbs.core.online import IV_SIZE, encrypt_reply
from sealpod.kbs.core.policy import ALLOW_ALL, Rule, check_all
from sealpod.kbs.core.ports import Auditor, BrokerStore, Sealer
from sealpod.kbs.core.records import Launch
from sealpod.kbs.core.request import RawRequest, SecretRequest, parse_requests
from sealpod.secret import SecretBytes
from sealpod.sev.chain import Chain, Trust, verify_chain
from sealpod.sev.measurement import MEASUREMENT_SIZE, Measurement, VerifiedLaunch, verify_measurement
from sealpod.sev.packet import IV_SIZE as PACKET_IV_SIZE
from sealpod.sev.policy import Policy
from sealpod.sev.session import KEY_SIZE, Session, TransportKeys
from sealpod.sev.version import FirmwareVersion
from sealpod.wire import secrettable
from sealpod.wire.guid import parse_guid

MAX_CHAIN: Final = 64 * 1024
"""Bytes of a certificate chain; a real one has 11536 at most, trailing bytes are ignored."""
MAX_LOGGED: Final = 64
"""Characters of a stranger's digest or id in the records."""

_CONTEXT: Final = b"sealpod launch keys 1"

Rng = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Reply of GetBundle: certificate and session as base64 text, as QEMU takes them."""

    godh: str
    session: str
    launch_id: str


@dataclass(frozen=True, slots=True)
class SecretClaim:
    """Request of GetSecret, as it came."""

    launch_id: str
    policy: int
    api_major: int
    api_minor: int
    build_id: int
    digest: str
    measurement: str
    description: str
    requests: tuple[RawRequest, ...]


@dataclass(frozen=True, slots=True)
class SealedSecrets:
    """Reply of GetSecret: packet header and encrypted table as base64 text."""

    header: str
    data: str


@dataclass(frozen=True, slots=True)
class OnlineReply:
    """Reply of GetOnlineSecret: ciphertext with tag, and nonce, as base64 text."""

    payload: str
    iv: str


class KeyBroker:
    """Safe to call from several threads when its store is.

    ``trusted`` maps the hex SHA-256 of an ARK to the name of that root; ``clock`` gives seconds since the
    epoch; ``rng(n)`` gives n random bytes fit for keys.
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
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._auditor = auditor
        self._trusted = dict(trusted)
        self._clock = clock
        self._rng = rng
        self._default_rule = default_rule
        self._limits = Limits() if limits is None else limits

    def get_bundle(self, chain: str, policy_word: int) -> Bundle:
        """Open a launch on the platform of ``chain`` (base64) under an SEV policy.

        1. decode the chain; 2. verify it up to a trusted root; 3. agree on a session with its PDH and wrap
        fresh transport keys; 4. keep the launch with its keys sealed.

        :raise DecodeError: malformed chain. :raise VerificationError: ``chain.*``.
        :raise RefusedError: ``launch.too-many``.
        """
        decision = Decision("GetBundle", policy=_hex_word(policy_word))
        with self._recorded(decision), stage.stage(stage.BUNDLE):
            policy = Policy.from_int(policy_word)
            certificates = _decode_chain(chain)  # (1)
            trust = verify_chain(certificates, self._trusted)  # (2)
            decision.root, decision.ark = trust.root, trust.ark_sha256
            session = Session.create(certificates.pdh, policy, rng=self._rng)  # (3)
            launch = self._open_launch(session, trust)  # (4)
            decision.launch = str(launch.id)
            return Bundle(
                godh=encode_base64(session.godh.encode()),
                session=encode_base64(session.blob),
                launch_id=str(launch.id),
            )

    def get_secret(self, claim: SecretClaim) -> SealedSecrets:
        """Release secrets to a measured launch. In this order, so that the texts are simple-kbs':

        1. the launch id and the requests are well formed;
        2. the claimed version fits the measurement, and every policy agrees (a refusal here costs the
           caller nothing: it may ask again with the same launch id);
        3. the launch is in progress, and was opened under the policy now claimed (stops a host that opens a
           debuggable launch and claims a strict policy for the release);
        4. measurement and digest are well formed, everything asked for exists and fits the guest's area;
        5. the launch id is spent: of racing callers one goes on, and nobody after it;
        6. the measurement proves digest, policy and version;
        7. new connections are kept, and the table is sealed for this launch.

        :raise SealpodError: as each step says; texts as in :mod:`sealpod.kbs.core.stage`.
        """
        decision = Decision("GetSecret", launch=claim.launch_id[:MAX_LOGGED])
        with self._recorded(decision):
            evidence = _evidence(claim)
            _describe(decision, evidence)
            with stage.stage(stage.LAUNCH_ID):  # (1)
                launch_id = parse_guid(claim.launch_id)
            launch = self._store.find_launch(launch_id, now=self._clock())
            decision.root = "" if launch is None else launch.root
            requests = self._parse(decision, claim.requests, guids_are_uuids=True)
            materials = self._approve(requests, evidence)  # (2)
            if launch is None:  # (3)
                raise _launch_unknown(launch_id)
            _same_policy(launch, evidence)
            measurement = _decode_measurement(claim.measurement, evidence)  # (4)
            table = self._table(requests, materials)
            keys = self._open_keys(launch)
            if not self._store.consume_launch(launch.id, now=self._clock()):  # (5)
                raise _launch_unknown(launch_id)
            verified = _verify(keys, launch, evidence, measurement)  # (6)
            return self._release(verified, table, materials)  # (7)

    def get_online_secret(self, client_id: str, raw: Sequence[RawRequest]) -> OnlineReply:
        """Release secrets to a running guest.

        1. the client id is well formed and known; 2. the requests are; 3. every policy agrees with what the
        guest's launch was; 4. everything exists; 5. encrypt under the connection's key.

        The request is not authenticated: who has the key can read the reply, and only that.

        :raise SealpodError: as each step says; ``connection.unknown`` for a client id nobody was given.
        """
        decision = Decision("GetOnlineSecret", client=client_id[:MAX_LOGGED])
        with self._recorded(decision):
            with stage.stage(stage.CLIENT_ID):  # (1)
                client = parse_guid(client_id)
            with stage.stage(stage.CONNECTION):
                connection = self._store.find_connection(client)
                if connection is None:
                    raise NotFoundError(NO_ROWS, code="connection.unknown", remedy=_CONNECTION_REMEDY)
            _describe(decision, connection.evidence)
            requests = self._parse(decision, raw, guids_are_uuids=False)  # (2)
            materials = self._approve(requests, connection.evidence)  # (3)
            with stage.stage(stage.FULFILL):  # (4)
                entries = _entries(requests, materials)
                _fits_reply(entries, self._limits.online_reply)
                self._keep_connections(materials)
            iv = self._rng(IV_SIZE)
            payload = encrypt_reply(connection.key, entries, iv=iv)  # (5)
            return OnlineReply(payload=encode_base64(payload), iv=encode_base64(iv))

    @contextmanager
    def _recorded(self, decision: Decision) -> Iterator[None]:
        try:
            yield
        except SealpodError as error:
            decision.outcome, decision.code, decision.reason = "refused", error.code, error.message
            self._auditor.record(decision)
            raise
        except Exception as error:
            # A bug of ours. Its text may quote anything; its type does not.
            decision.code, decision.reason = "internal.error", type(error).__name__
            self._auditor.record(decision)
            raise
        decision.outcome = "granted"
        self._auditor.record(decision)

    def _open_launch(self, session: Session, trust: Trust) -> Launch:
        now = self._clock()
        launch_id = UUID(bytes=self._rng(16), version=4)
        plain = SecretBytes(session.keys.tek.reveal() + session.keys.tik.reveal())
        sealed = self._sealer.seal(plain, context=_launch_context(launch_id, session.policy.value))
        expires = now + self._limits.launch_ttl
        launch = Launch(launch_id, session.policy.value, sealed, trust.root, now, expires)
        self._store.add_launch(launch, limit=self._limits.max_launches)
        return launch

    def _open_keys(self, launch: Launch) -> TransportKeys:
        try:
            opened = self._sealer.open(launch.sealed_keys, context=_launch_context(launch.id, launch.policy))
        except VerificationError as error:
            # Opened by a broker that ended since: its key is gone, and with it the launch.
            raise _launch_unknown(launch.id) from error
        plain = opened.reveal()
        return TransportKeys(SecretBytes(plain[:KEY_SIZE]), SecretBytes(plain[KEY_SIZE:]))

    def _parse(
        self, decision: Decision, raw: Sequence[RawRequest], *, guids_are_uuids: bool
    ) -> tuple[SecretRequest, ...]:
        with stage.stage(stage.REQUEST):
            requests = parse_requests(raw, guids_are_uuids=guids_are_uuids)
        decision.secrets = tuple(request.label() for request in requests)
        return requests

    def _approve(self, requests: Sequence[SecretRequest], evidence: Evidence) -> tuple[Material, ...]:
        with stage.stage(stage.POLICY):
            check_version_bytes(evidence.api_major, evidence.api_minor, evidence.build_id)
            check_all((self._default_rule,), evidence)
            materials = tuple(gather(self._store, one, evidence, self._rng) for one in requests)
            check_all((rule for material in materials for rule in material.rules), evidence)
        return materials

    def _table(self, requests: Sequence[SecretRequest], materials: Sequence[Material]) -> SecretBytes:
        with stage.stage(stage.FULFILL):
            entries = [
                (parse_guid(guid), payload.reveal()) for guid, payload in _entries(requests, materials)
            ]
            table = SecretBytes(secrettable.encode(entries))
            if len(table) > self._limits.secret_area:
                raise RefusedError(
                    f"secret table too large: {len(table)} bytes, the guest has {self._limits.secret_area}",
                    code="secret.table-too-large",
                    remedy="Ask for fewer secrets, or for a connection and the rest online",
                )
        return table

    def _keep_connections(self, materials: Sequence[Material]) -> None:
        connections = [one for material in materials for one in material.connections]
        if connections:
            self._store.add_connections(connections)

    def _release(
        self, verified: VerifiedLaunch, table: SecretBytes, materials: Sequence[Material]
    ) -> SealedSecrets:
        with stage.stage(stage.FULFILL):
            self._keep_connections(materials)
        with stage.stage(stage.PACKAGE):
            packet = verified.pack(table.reveal(), iv=self._rng(PACKET_IV_SIZE))
        return SealedSecrets(header=encode_base64(packet.header), data=encode_base64(packet.data))


_CONNECTION_REMEDY: Final = "Launch the guest again: its connection is not known to this key broker"


def _decode_chain(text: str) -> Chain:
    raw = decode_base64(text, limit=MAX_CHAIN)
    try:
        return Chain.decode(raw)
    except DecodeError as error:
        raise DecodeError(
            f"Cert Chain not formatted correctly: {error.message}",
            code=error.code,
            remedy=error.remedy or "Export the full chain (sealpod sev export --full)",
        ) from error


def _launch_context(launch_id: UUID, policy: int) -> bytes:
    return _CONTEXT + launch_id.bytes + policy.to_bytes(4, "little")


def _launch_unknown(launch_id: UUID) -> NotFoundError:
    return NotFoundError(
        f"Launch ID not found. UUID: {launch_id}",
        code="launch.unknown",
        remedy="Start the launch again with GetBundle: a launch id serves once, for some minutes, and not "
        "across a restart of the key broker",
    )


def _evidence(claim: SecretClaim) -> Evidence:
    return Evidence(
        claim.policy,
        claim.api_major,
        claim.api_minor,
        claim.build_id,
        claim.digest,
        clean_description(claim.description),
    )


def _describe(decision: Decision, evidence: Evidence) -> None:
    decision.policy = _hex_word(evidence.policy)
    decision.digest = evidence.digest[:MAX_LOGGED]
    decision.firmware = f"{evidence.api_major}.{evidence.api_minor}.{evidence.build_id}"
    decision.description = evidence.description


def _hex_word(value: int) -> str:
    return f"0x{value:08x}"


def _same_policy(launch: Launch, evidence: Evidence) -> None:
    if launch.policy != evidence.policy:
        raise RefusedError(
            f"{stage.POLICY}: policy {_hex_word(evidence.policy)} is not the one of the launch bundle, "
            f"{_hex_word(launch.policy)}",
            code="policy.mismatch",
            remedy="Ask for the secret with the policy the bundle was made for",
        )


def _decode_measurement(text: str, evidence: Evidence) -> Measurement:
    with stage.stage(stage.MEASUREMENT):
        evidence.digest_bytes()
        raw = decode_base64(text, limit=4 * MEASUREMENT_SIZE)
        try:
            return Measurement.decode(raw)
        except DecodeError as error:
            raise DecodeError(f"Measurement Invalid: {error.message}", code=error.code) from error


def _verify(
    keys: TransportKeys, launch: Launch, evidence: Evidence, measurement: Measurement
) -> VerifiedLaunch:
    version = FirmwareVersion(evidence.api_major, evidence.api_minor, evidence.build_id)
    with stage.stage(stage.MEASUREMENT):
        return verify_measurement(
            keys, Policy.from_int(launch.policy), version, evidence.digest_bytes(), measurement
        )


def _entries(
    requests: Sequence[SecretRequest], materials: Sequence[Material]
) -> list[tuple[str, SecretBytes]]:
    return [(request.guid, material.payload()) for request, material in zip(requests, materials, strict=True)]


def _fits_reply(entries: Sequence[tuple[str, SecretBytes]], limit: int) -> None:
    size = sum(len(payload) for _, payload in entries)
    if size > limit:
        raise RefusedError(
            f"online reply too large: {size} bytes of {limit}",
            code="secret.reply-too-large",
            remedy="Ask for fewer secrets at a time",
        )

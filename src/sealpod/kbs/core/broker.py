# SPDX-License-Identifier: Apache-2.0
"""The three calls of the key broker, as procedures over its ports.

``get_bundle`` opens a launch on a platform whose chain ends in a trusted root; ``get_secret`` releases
secrets to that launch once its measurement proves what runs in it; ``get_online_secret`` releases further
ones to the guest that got a connection. Their steps are :mod:`.getbundle`, :mod:`.getsecret` and
:mod:`.getonline`. What differs from simple-kbs on purpose: roots are pinned, the SEV policy is the bundle's
own, numbers that do not fit the measurement are refused, a policy that cannot be read refuses, and a request
is checked in full before the launch id is spent on it.

Each call ends in exactly one decision. A call that grants prepares its whole reply first; then the decision
and what it changes are written down, together or not at all; then the reply leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.errors import SealpodError
from sealpod.kbs.core import deciding, getbundle, getonline, getsecret, stage
from sealpod.kbs.core.asker import NoFiles
from sealpod.kbs.core.audit import Caller, Decision, timestamp
from sealpod.kbs.core.context import Context, Rng
from sealpod.kbs.core.deciding import Prepared
from sealpod.kbs.core.launching import ChainVerifier
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.messages import Bundle, OnlineReply, SealedSecrets, SecretClaim
from sealpod.kbs.core.policy import ALLOW_ALL, Rule
from sealpod.kbs.core.ports import Auditor, BrokerStore, ResourceFiles, Sealer
from sealpod.kbs.core.records import Change
from sealpod.kbs.core.request import RawRequest

Reply = TypeVar("Reply")


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
        limits = Limits() if limits is None else limits
        self._auditor = auditor
        self._context = Context(
            store=store,
            sealer=sealer,
            chains=ChainVerifier(trusted, size=limits.chain_cache),
            clock=clock,
            rng=rng,
            default_rule=default_rule,
            limits=limits,
            files=NoFiles() if files is None else files,
            new_key=new_key,
        )

    def trust(self, trusted: Mapping[str, str]) -> None:
        """From now on, launches begin on platforms under these roots only."""
        self._context.chains.trust(trusted)

    def get_bundle(self, chain: str, policy_word: int, *, caller: Caller | None = None) -> Bundle:
        """Open a launch on the platform of ``chain`` (base64) under an SEV policy.

        :raise DecodeError: malformed chain. :raise VerificationError: ``chain.*``.
        :raise RefusedError: ``launch.too-many``.
        """
        return self._decide(
            "GetBundle",
            caller,
            lambda decision: getbundle.prepare(self._context, decision, chain, policy_word),
            step=stage.BUNDLE,
        )

    def get_secret(self, claim: SecretClaim, *, caller: Caller | None = None) -> SealedSecrets:
        """Release secrets to a measured launch.

        :raise SealpodError: as each step says; texts as in :mod:`sealpod.kbs.core.stage`.
        """
        return self._decide(
            "GetSecret", caller, lambda decision: getsecret.prepare(self._context, decision, claim)
        )

    def get_online_secret(
        self, client_id: str, raw: Sequence[RawRequest], *, caller: Caller | None = None
    ) -> OnlineReply:
        """Release secrets to a running guest. :raise SealpodError: as each step says; ``connection.*``."""
        return self._decide(
            "GetOnlineSecret",
            caller,
            lambda decision: getonline.prepare(self._context, decision, client_id, raw),
        )

    def _decide(
        self,
        call: str,
        caller: Caller | None,
        prepare: Callable[[Decision], Prepared[Reply]],
        *,
        step: str = "",
    ) -> Reply:
        """Prepare, write down, pass on, and only then answer. ``step`` comes before the text of a refusal."""
        decision = deciding.begin(call, caller, rng=self._context.rng)
        try:
            with stage.stage(step):
                prepared = prepare(decision)
                now = self._context.clock()
                deciding.conclude(decision, prepared.reply, timestamp(now))
                entry = self._context.store.settle(prepared.change, now=now, limits=self._context.limits)
        except Exception as error:
            self._record_refusal(decision, error)
            raise
        self._auditor.record(decision, entry)
        if isinstance(prepared.reply, SealpodError):
            raise prepared.reply
        return prepared.reply

    def _record_refusal(self, decision: Decision, error: Exception) -> None:
        now = self._context.clock()
        deciding.refuse(decision, error, timestamp(now))
        try:
            entry = self._context.store.settle(Change(decision), now=now, limits=self._context.limits)
        except SealpodError:
            # The refusal stands without its record: there is nothing it could release.
            entry = None
        self._auditor.record(decision, entry)

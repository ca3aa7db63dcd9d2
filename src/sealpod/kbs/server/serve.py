# SPDX-License-Identifier: Apache-2.0
"""Putting a broker together and on its ports, and taking it down again.

Plain HTTP/2 unless told otherwise, as simple-kbs' clients speak it: the bundle and the secret packet are
sealed for the platform of the chain, online replies for the guest, and neither needs the channel to be
secret.

The end has an order: not ready, new calls refused, calls in progress end, then the listener that probes ask,
then the database.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from sealpod.errors import UsageError
from sealpod.kbs.admin.audit import AdminLog
from sealpod.kbs.admin.service import Admin
from sealpod.kbs.core.broker import KeyBroker
from sealpod.kbs.core.clock import SteadyClock
from sealpod.kbs.core.policy import Rule
from sealpod.kbs.core.ports import Auditor, ResourceFiles
from sealpod.kbs.server import database
from sealpod.kbs.server.admin.app import AdminParts
from sealpod.kbs.server.admin.auth import Gatekeeper
from sealpod.kbs.server.audit import CountingAuditor, LogAuditor
from sealpod.kbs.server.config import ServerConfig, is_loopback, split_listen, trusted_roots
from sealpod.kbs.server.defaultpolicy import CurrentBroker
from sealpod.kbs.server.metrics import Metrics
from sealpod.kbs.server.process import CHECK_THREADS, THREADS, Process
from sealpod.kbs.server.tls import Credentials, share_authorities
from sealpod.kbs.server.webhook import WebhookAuditor, open_webhook
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import Database, open_database
from sealpod.kbs.store.files import DirectoryFiles

GRACE: Final = 10.0
"""Seconds calls in progress have to end after a stop was asked for; clients wait as long for a call."""
AUDIT_BREAKS: Final = "How often the log of decisions lacked what this process had seen in it"

_logger = logging.getLogger(__name__)


class RunningBroker:
    """A broker that accepts calls. Addresses are HOST:PORT with the real port."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.address = process.grpc.address
        self.guest_address = None if process.guests is None else process.guests.address
        self.ops_address = None if process.ops is None else process.ops.address
        self.admin_address = None if process.admin is None else process.admin.address

    def reload(self) -> None:
        """Read certificates, authorities, tokens and the default policy again, changed or not."""
        self._process.reload()

    def stop(self, grace: float = GRACE) -> None:
        """Refuse new calls, let those in progress end within ``grace`` seconds, close the database."""
        self._process.stop(grace)

    def __enter__(self) -> RunningBroker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def serve(
    config: ServerConfig, *, auditor: Auditor | None = None, sleep: Callable[[float], None] = time.sleep
) -> RunningBroker:
    """Open the database, bind the ports, start answering.

    ``auditor`` gets each decision once it is written down; by default it is logged. ``sleep`` passes the time
    while the database is waited for; what it raises ends the start.

    :raise UsageError: an address or fingerprint that is none, or nothing to trust.
    :raise UnavailableError: a port is taken, or the database does not answer.
    :raise SealpodError: a file or the database cannot be used.
    """
    split_listen(config.listen)
    trusted = trusted_roots(config.trust_arks, amd_roots=config.amd_roots)
    tls = None if config.tls is None else Credentials(config.tls)
    gatekeeper = None if config.admin is None else Gatekeeper(config.admin)
    _keep_hosts_out(config)
    files = _resource_files(config)
    db = database.open_waiting(lambda: _open(config), seconds=config.wait_for_database, sleep=sleep)
    with ExitStack() as undo:
        undo.callback(db.close)
        if config.sealed_connections and not db.sealer.seals:
            raise UsageError(
                "without a key-encryption key there are no sealed connections",
                code="kek.unconfigured",
                remedy="give --kek, or leave out --sealed-connections",
            )
        metrics = Metrics()
        clock = SteadyClock(time.time, time.monotonic)
        # One, because callers that wait for its lock are settled together.
        store = SqlBrokerStore(db, plain_connections=not config.sealed_connections)
        metrics.gauge("audit_breaks", AUDIT_BREAKS, lambda: float(store.audit_breaks))
        webhook = open_webhook(config.audit_webhook, config.audit_webhook_token)
        told: Auditor = LogAuditor() if auditor is None else auditor
        if webhook is not None:
            undo.callback(webhook.close, 0.0)
            told = WebhookAuditor(told, webhook)
        counting = CountingAuditor(told, metrics)

        def make(rule: Rule) -> KeyBroker:
            return KeyBroker(
                store=store,
                sealer=db.sealer,
                auditor=counting,
                trusted=trusted,
                clock=clock,
                rng=os.urandom,
                default_rule=rule,
                limits=config.limits,
                files=files,
                new_key=lambda: ec.generate_private_key(ec.SECP384R1()),
            )

        current = CurrentBroker(make, config.default_rule, config.default_policy_file)
        admin = None
        if gatekeeper is not None:
            verbs = Admin(db, lambda: current.rule, config.limits, files)
            admin = AdminParts(gatekeeper, verbs, AdminLog(store, counting, clock, config.limits))
        process = Process(config, db, current, metrics, tls, clock, admin, webhook)
        undo.callback(process.abandon)
        process.start()
        undo.pop_all()
    roots = ", ".join(sorted(set(trusted.values())))
    _logger.info("listening on %s%s, trusting %s", process.grpc.address, " (TLS)" if tls else "", roots)
    _warn_of_plaintext(config)
    return RunningBroker(process)


def _open(config: ServerConfig) -> Database:
    # Each call holds a connection while it is decided; probes and the admin API come on top.
    pool = min(THREADS + CHECK_THREADS, config.pool or THREADS + CHECK_THREADS)
    return open_database(config.database, keks=config.keks, pool_size=pool, migrate=config.migrate)


def _resource_files(config: ServerConfig) -> ResourceFiles | None:
    if config.resources is None:
        return None
    return DirectoryFiles(config.resources, limit=config.limits.online_reply)


def _keep_hosts_out(config: ServerConfig) -> None:
    """A certificate of the admin API's authorities is all that an administrator needs.

    :raise UsageError: ``admin.open``: hosts, which are not to be trusted, have one.
    """
    admin = config.admin
    if admin is not None and admin.token_file is None and share_authorities(config.tls, admin.tls):
        raise UsageError(
            "every host with a certificate for launches would be an administrator",
            code="admin.open",
            remedy="give --admin-tls-client-ca an authority of its own, or --admin-token-file too",
        )


def _warn_of_plaintext(config: ServerConfig) -> None:
    if config.tls is None and not is_loopback(split_listen(config.listen)[0]):
        _logger.warning(
            "listening without TLS on an address others reach: they can read key ids, digests and policies "
            "(no keys), and answer in this broker's place"
        )

# SPDX-License-Identifier: Apache-2.0
"""Putting a broker together and on a port.

Plain HTTP/2, as simple-kbs' clients speak it: the bundle and the secret packet are sealed for the platform
of the chain, online replies for the guest, and neither needs the channel to be secret.

Launches in progress are sealed under a key made here and kept in memory: after a restart they are unknown,
and the host asks for a new bundle. Connections of running guests survive.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import grpc
from sqlalchemy import Engine

from sealpod.errors import UnavailableError, UsageError
from sealpod.kbs.core.broker import KeyBroker
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.policy import ALLOW_ALL, Rule
from sealpod.kbs.core.ports import Auditor
from sealpod.kbs.core.sealing import KEY_SIZE, KeyRing
from sealpod.kbs.server.audit import LogAuditor
from sealpod.kbs.server.service import handlers
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.engine import open_engine
from sealpod.secret import SecretBytes
from sealpod.sev.roots import AMD_ARKS

MODEL_ROOT: Final = "model"
"""What a root trusted by fingerprint is called: AMD's are built in, so it is a software platform's."""
MAX_MESSAGE: Final = 256 * 1024
"""Bytes of a request. The largest real part is a chain, 15 KiB of base64."""
THREADS: Final = 8
"""Calls worked on at once; they are short, and most of their time is elliptic curves."""
MAX_CALLS: Final = 512
"""Calls accepted at once; gRPC answers RESOURCE_EXHAUSTED beyond it."""
GRACE: Final = 10.0
"""Seconds calls in progress have to end after a stop was asked for; clients wait as long for a call."""

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_LISTEN = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[^:\[\]\s]+):(?P<port>[0-9]{1,5})")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What a broker is started with."""

    listen: str
    """HOST:PORT; port 0 takes a free one. IPv6 addresses in brackets."""
    database: str
    """SQLAlchemy URL."""
    trust_arks: tuple[str, ...] = ()
    """Hex SHA-256 of further ARKs, as their certificates stand in a chain."""
    amd_roots: bool = True
    """Whether AMD's ARKs are trusted."""
    default_rule: Rule = ALLOW_ALL
    """The policy every release must meet."""
    limits: Limits = field(default_factory=Limits)


class RunningBroker:
    """A broker that accepts calls. ``address`` is HOST:PORT with the real port."""

    def __init__(self, server: grpc.Server, engine: Engine, address: str) -> None:
        self._server = server
        self._engine = engine
        self.address = address

    def stop(self, grace: float = GRACE) -> None:
        """Refuse new calls, let those in progress end within ``grace`` seconds, close the database."""
        self._server.stop(grace).wait()
        self._engine.dispose()

    def __enter__(self) -> RunningBroker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def serve(config: ServerConfig, *, auditor: Auditor | None = None) -> RunningBroker:
    """Open the database, bind the port, start answering.

    :raise UsageError: an address or fingerprint that is none, or nothing to trust.
    :raise UnavailableError: the port is taken. :raise SealpodError: the database cannot be opened.
    """
    host, port = _split(config.listen)
    trusted = trusted_roots(config.trust_arks, amd_roots=config.amd_roots)
    engine = open_engine(config.database, pool_size=THREADS)
    try:
        broker = KeyBroker(
            store=SqlBrokerStore(engine),
            sealer=KeyRing(SecretBytes(os.urandom(KEY_SIZE)), rng=os.urandom),
            auditor=LogAuditor() if auditor is None else auditor,
            trusted=trusted,
            clock=time.time,
            rng=os.urandom,
            default_rule=config.default_rule,
            limits=config.limits,
        )
        server = _server(broker)
        bound = _bind(server, host, port)
        server.start()
    except BaseException:
        engine.dispose()
        raise
    address = f"{host}:{bound}"
    _logger.info("listening on %s, trusting %s", address, ", ".join(sorted(set(trusted.values()))))
    return RunningBroker(server, engine, address)


def trusted_roots(fingerprints: tuple[str, ...], *, amd_roots: bool) -> Mapping[str, str]:
    """ARK fingerprint to name. A root named by fingerprint that is AMD's keeps AMD's name.

    :raise UsageError: not a SHA-256 in hex, or no root at all.
    """
    trusted = dict(AMD_ARKS) if amd_roots else {}
    for text in fingerprints:
        fingerprint = text.strip().lower()
        if _FINGERPRINT.fullmatch(fingerprint) is None:
            raise UsageError(
                f"not a SHA-256 in hex: {text[:80]!r}",
                code="trust.fingerprint",
                remedy="Give the 64 hex digits `sealpod sev export` prints for the platform's ARK",
            )
        trusted[fingerprint] = AMD_ARKS.get(fingerprint, MODEL_ROOT)
    if not trusted:
        raise UsageError("no root is trusted, so no launch could be", code="trust.empty")
    return trusted


def _server(broker: KeyBroker) -> grpc.Server:
    server = grpc.server(
        ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="kbs"),
        maximum_concurrent_rpcs=MAX_CALLS,
        options=(
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            # Two brokers on one port would each know half of the launches.
            ("grpc.so_reuseport", 0),
        ),
    )
    server.add_generic_rpc_handlers((handlers(broker),))
    return server


def _bind(server: grpc.Server, host: str, port: int) -> int:
    try:
        bound = int(server.add_insecure_port(f"{host}:{port}"))
    except RuntimeError:
        bound = 0
    if bound == 0:
        raise UnavailableError(
            f"cannot listen on {host}:{port}",
            code="kbs.listen",
            remedy="Check that the address is this machine's and the port is free",
        )
    return bound


def _split(listen: str) -> tuple[str, int]:
    match = _LISTEN.fullmatch(listen)
    if match is None or int(match["port"]) > 0xFFFF:
        raise UsageError(
            f"not HOST:PORT: {listen!r}", code="kbs.listen", remedy="For instance 127.0.0.1:44444"
        )
    return match["host"], int(match["port"])

# SPDX-License-Identifier: Apache-2.0
"""What a broker is started with, and the checks that need nothing but the words.

Addresses, trusted roots, files and limits; every limit has its unit and its reason. Secrets are not among
them: tokens, keys and passwords are named by file or by the environment and read where they are used.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy.engine import URL

from sealpod.errors import UsageError
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.policy import ALLOW_ALL, Rule
from sealpod.kbs.core.records import MODEL_ROOT
from sealpod.kbs.store.keks import KekSources
from sealpod.sev.roots import AMD_ARKS

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_LISTEN = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[^:\[\]\s/]+):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one listener. They are read again when they change, and on SIGHUP."""

    certificate: str
    """The server's certificate, then the intermediate ones."""
    key: str
    """Its private key, without a passphrase, readable by the broker alone."""
    client_ca: str | None = None
    """Who signs callers' certificates. With it, a caller without such a certificate is not answered."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Calls one peer may make: ``rate`` per second in the long run, ``burst`` at once; rate 0 is no limit.

    A peer is an IPv4 address or an IPv6 /64. Loopback is a proxy that stands for many, or this machine's
    own, and is not limited unless ``loopback`` says so.
    """

    rate: float = 0.0
    burst: int = 200
    loopback: bool = False


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one caller, and all of them, may hold. Times are in seconds.

    Kata's shim opens a connection per call and gives up after ten seconds; guests do the same.
    """

    connections: int = 1000
    """Open connections, half-open ones included; further ones are closed at once."""
    streams: int = 32
    """Calls at once on one connection; a client's library waits with more."""
    calls: int = 1024
    """Calls at once on all connections. Each holds at most one message."""
    calls_per_peer: int = 128
    """Calls at once from one address, so that none can take all of ``calls``; loopback is not counted."""
    handshake: float = 10.0
    """From the TCP connection to the end of TLS and the first HTTP/2 frame."""
    request: float = 10.0
    """From a call's headers to the end of its message."""
    keepalive: float = 30.0
    """A connection that is silent for this long is asked whether it is still there."""
    keepalive_answer: float = 10.0
    """Time to answer that."""
    idle: float = 60.0
    """A connection without a call is closed after this."""
    age: float = 300.0
    """A connection is asked to end after this; its client opens another one."""
    age_grace: float = 20.0
    """Time it has to end; then it is closed."""


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """The admin listener. Callers prove themselves by a bearer token, a client certificate, or both."""

    listen: str
    token_file: str | None = None
    """One token a line, ``NAME TOKEN`` or ``TOKEN``; the name stands in the audit log."""
    tls: TlsFiles | None = None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What a broker is started with."""

    listen: str
    """HOST:PORT; port 0 takes a free one. IPv6 addresses in brackets."""
    database: str | URL
    """SQLAlchemy URL."""
    trust_arks: tuple[str, ...] = ()
    """Hex SHA-256 of further ARKs, as their certificates stand in a chain."""
    amd_roots: bool = True
    """Whether AMD's ARKs are trusted."""
    default_rule: Rule = ALLOW_ALL
    """The policy every release must meet, unless ``default_policy_file`` names a file with another."""
    default_policy_file: str | None = None
    """simple-kbs' ``default_policy.json``; read again when it changes."""
    limits: Limits = field(default_factory=Limits)
    keks: KekSources | None = None
    """Key-encryption keys; None takes the database's default."""
    pool: int | None = None
    """Connections to the database at most; None takes what the threads need."""
    sealed_connections: bool = False
    """Whether a connection whose key stands in plain, as simple-kbs writes it, is refused."""
    migrate: bool = False
    """Whether a database that simple-kbs or an earlier version made is brought up to date at start."""
    tls: TlsFiles | None = None
    """TLS of the gRPC listener; None is plain HTTP/2, as simple-kbs' clients speak it."""
    guest_listen: str | None = None
    """HOST:PORT of a second listener, in plain HTTP/2, that answers nothing but guests' GetOnlineSecret; None
    does not offer it. For a broker whose first listener has TLS."""
    rate: RateLimit = field(default_factory=RateLimit)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    reflection: bool = True
    """Whether the gRPC reflection service is offered; it tells what keybroker.proto tells."""
    ops_listen: str | None = None
    """HOST:PORT of /healthz, /readyz and /metrics; None does not offer them."""
    admin: AdminConfig | None = None
    """The admin API; None does not offer it."""
    resources: str | None = None
    """The directory of the files that resources name; None serves none."""
    wait_for_database: float = 0.0
    """Seconds to go on trying when the database does not answer at start."""
    audit_webhook: str | None = None
    """A file with the URL that every decision is POSTed to; None sends none."""
    audit_webhook_token: str | None = None
    """A file with the bearer token that goes along, readable by the broker alone."""
    drain_delay: float = 0.0
    """Seconds between saying "not ready" and refusing calls, for load balancers to notice."""


def split_listen(listen: str) -> tuple[str, int]:
    """HOST:PORT in two; IPv6 addresses keep their brackets.

    :raise UsageError: it is something else.
    """
    match = _LISTEN.fullmatch(listen)
    if match is None or int(match["port"]) > 0xFFFF:
        raise UsageError(
            f"not HOST:PORT: {listen!r}", code="kbs.listen", remedy="for instance 127.0.0.1:44444"
        )
    return match["host"], int(match["port"])


def is_loopback(host: str) -> bool:
    """Whether an address, or the name ``localhost``, can be reached from this machine only."""
    bare = host.strip("[]").partition("%")[0]
    if bare == "localhost":
        return True
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


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
                remedy="give the 64 hex digits `sealpod sev export` prints for the platform's ARK",
            )
        trusted[fingerprint] = AMD_ARKS.get(fingerprint, MODEL_ROOT)
    if not trusted:
        raise UsageError("no root is trusted, so no launch could be", code="trust.empty")
    return trusted

# SPDX-License-Identifier: Apache-2.0
"""The options of ``sealpod kbs serve``; :mod:`.kbs_serve_config` is what they come to.

Secrets are never arguments, which every user of a machine can read: they are named by file.
"""

from __future__ import annotations

import argparse
import math
from contextlib import suppress
from typing import Final

DEFAULT_LISTEN: Final = "127.0.0.1:44444"
"""simple-kbs' address."""
DEFAULT_RATE: Final = 50.0
"""Calls a second of one address in the long run. A host makes two per pod, a guest one per layer."""


def add_serving_options(parser: argparse.ArgumentParser) -> None:
    """All but the database's."""
    _add_trust(parser.add_argument_group("who is answered"))
    _add_listener(parser.add_argument_group("gRPC listener"))
    _add_admin(parser.add_argument_group("admin API and probes"))
    _add_limits(parser.add_argument_group("limits"))
    _add_operation(parser.add_argument_group("operation"))


def _add_trust(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--trust-ark",
        dest="trust_arks",
        metavar="SHA256",
        action="append",
        default=[],
        help="trust platforms under this root too: SHA-256 of its ARK certificate, as `sealpod sev export` "
        "prints it for a software platform; may be repeated",
    )
    group.add_argument("--no-amd-roots", action="store_true", help="do not trust AMD's roots")
    group.add_argument(
        "--default-policy",
        metavar="FILE",
        help="policy every release must meet, in the form of simple-kbs' default_policy.json; read again "
        "when it changes (default: allow what the secret's own policy allows)",
    )
    group.add_argument(
        "--sealed-connections",
        action="store_true",
        help="refuse connections whose key stands in plain in the database, as simple-kbs writes it: who can "
        "write there could make one. For databases that simple-kbs does not use, or not any more (seal "
        "those it made with `sealpod kbs seal`)",
    )
    group.add_argument("--resources", metavar="DIRECTORY", help="where the files are that resources name")


def _add_listener(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--listen",
        "--grpc_sock",
        metavar="HOST:PORT",
        default=DEFAULT_LISTEN,
        help=f"address to answer on; port 0 takes a free one (default: {DEFAULT_LISTEN}); the second name is "
        "simple-kbs'",
    )
    _add_tls(group, "--tls", "the gRPC listener")
    group.add_argument(
        "--guest-listen",
        metavar="HOST:PORT",
        help="answer GetOnlineSecret, and no other call, there over plain HTTP/2: guests do not speak TLS, "
        "and their answers are sealed (default: do not)",
    )
    group.add_argument("--no-reflection", action="store_true", help="do not offer gRPC's reflection service")


def _add_admin(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--ops-listen",
        metavar="HOST:PORT",
        help="offer /healthz, /readyz and /metrics there, over plain HTTP without authentication "
        "(default: do not)",
    )
    group.add_argument(
        "--admin-listen",
        metavar="HOST:PORT",
        help="offer the admin API there; other addresses than loopback need TLS (default: do not)",
    )
    group.add_argument(
        "--admin-token-file",
        metavar="FILE",
        help="bearer tokens the admin API takes, one `NAME TOKEN` a line; the broker's alone (chmod 600)",
    )
    _add_tls(group, "--admin-tls", "the admin API")


def _add_tls(group: argparse._ArgumentGroup, prefix: str, what: str) -> None:
    group.add_argument(f"{prefix}-cert", metavar="FILE", help=f"PEM certificate chain of {what}")
    group.add_argument(f"{prefix}-key", metavar="FILE", help="its PEM private key, the broker's alone")
    group.add_argument(
        f"{prefix}-client-ca",
        metavar="FILE",
        help="answer only callers with a certificate of these PEM authorities",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--rate-limit",
        type=_number,
        default=DEFAULT_RATE,
        metavar="CALLS",
        help="calls a second one address may make in the long run, an IPv6 /64 counting as one and loopback "
        f"not at all; 0 is no limit (default: {DEFAULT_RATE:g})",
    )
    group.add_argument(
        "--rate-burst", type=_count, default=200, metavar="CALLS", help="calls at once (default: 200)"
    )
    group.add_argument(
        "--max-connections", type=_count, default=1000, metavar="N", help="open connections (default: 1000)"
    )
    group.add_argument(
        "--max-launches",
        type=_count,
        default=10_000,
        metavar="N",
        help="launches in progress (default: 10000)",
    )
    group.add_argument(
        "--chain-cache",
        type=_size,
        default=1024,
        metavar="N",
        help="verified certificate chains to remember; 0 verifies each anew (default: 1024)",
    )
    group.add_argument(
        "--launch-ttl",
        type=_time,
        default=600.0,
        metavar="SECONDS",
        help="how long a launch may take from bundle to secret (default: 600)",
    )
    group.add_argument(
        "--connection-ttl",
        type=_number,
        default=30 * 86400.0,
        metavar="SECONDS",
        help="how long a guest may ask with its connection; 0 is for ever (default: 2592000, thirty days)",
    )


def _add_operation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--wait-for-database",
        type=_number,
        default=0.0,
        metavar="SECONDS",
        help="at start, how long to try when the database does not answer (default: 0)",
    )
    group.add_argument(
        "--migrate",
        action="store_true",
        help="bring a database of simple-kbs or an earlier version up to date",
    )
    group.add_argument(
        "--drain-delay",
        type=_number,
        default=0.0,
        metavar="SECONDS",
        help="at the end, time between saying not ready and refusing calls (default: 0)",
    )
    group.add_argument(
        "--grace",
        type=_number,
        default=10.0,
        metavar="SECONDS",
        help="at the end, time for calls in progress (default: 10)",
    )
    group.add_argument(
        "--audit-webhook",
        metavar="FILE",
        help="a file with a URL: every decision is POSTed there as JSON (default: none)",
    )
    group.add_argument(
        "--audit-webhook-token",
        metavar="FILE",
        help="a file with the bearer token that goes along, the broker's alone (chmod 600)",
    )
    group.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="default: $RUST_LOG, or info"
    )
    group.add_argument("--log-format", choices=("text", "json"), default="text", help="default: text")


def _number(text: str) -> float:
    with suppress(ValueError):
        value = float(text)
        if 0.0 <= value < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"not a number from 0 up: {text[:40]!r}")


def _time(text: str) -> float:
    value = _number(text)
    if value > 0:
        return value
    raise argparse.ArgumentTypeError(f"not a number above 0: {text[:40]!r}")


def _size(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text[:9])
    raise argparse.ArgumentTypeError(f"not a whole number from 0 up: {text[:40]!r}")


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text[:9]) > 0:
        return int(text[:9])
    raise argparse.ArgumentTypeError(f"not a whole number above 0: {text[:40]!r}")

# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs serve``: the key broker in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from typing import TYPE_CHECKING, Final

from sealpod.cli.kbs_common import DATABASE_VARIABLE, Nouns, add_database_option, database_url
from sealpod.errors import AccessError, NotFoundError, OperationError

if TYPE_CHECKING:
    from sealpod.kbs.core.policy import Rule

DEFAULT_LISTEN: Final = "127.0.0.1:44444"
"""simple-kbs' address."""
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"


def add_commands(nouns: Nouns) -> None:
    """``serve``."""
    text = "Answer launches and guests over gRPC until stopped"
    parser = nouns.add_parser(
        "serve",
        help=text,
        description=f"{text}. Prints `listening on HOST:PORT` on standard error when ready; SIGTERM and "
        "Ctrl-C end it after the calls in progress. Launches in progress do not survive a restart.",
        epilog=f"The database's URL may come from ${DATABASE_VARIABLE}, where a password stays private.",
    )
    parser.set_defaults(action=_serve)
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default=DEFAULT_LISTEN,
        help=f"address to answer on; port 0 takes a free one (default: {DEFAULT_LISTEN})",
    )
    add_database_option(parser)
    parser.add_argument(
        "--trust-ark",
        dest="trust_arks",
        metavar="SHA256",
        action="append",
        default=[],
        help="trust platforms under this root too: SHA-256 of its ARK certificate, as `sealpod sev export` "
        "prints it for a software platform; may be repeated",
    )
    parser.add_argument("--no-amd-roots", action="store_true", help="do not trust AMD's roots")
    parser.add_argument(
        "--default-policy",
        metavar="FILE",
        help="policy every release must meet, in the form of simple-kbs' default_policy.json "
        "(default: allow what the secret's own policy allows)",
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning"), default="info", help="default: info"
    )


def _serve(args: argparse.Namespace) -> int:
    # Blocked before gRPC starts its threads, which inherit that: a signal that one of them took would not
    # wake the main thread.
    signals = {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        _serve_until(signals, args)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def _serve_until(signals: set[signal.Signals], args: argparse.Namespace) -> None:
    from sealpod.kbs.core.policy import ALLOW_ALL
    from sealpod.kbs.server import ServerConfig, serve

    logging.basicConfig(stream=sys.stderr, level=args.log_level.upper(), format=LOG_FORMAT)
    config = ServerConfig(
        listen=args.listen,
        database=database_url(args),
        trust_arks=tuple(args.trust_arks),
        amd_roots=not args.no_amd_roots,
        default_rule=ALLOW_ALL if args.default_policy is None else _read_rule(args.default_policy),
    )
    with serve(config) as broker:
        print(f"listening on {broker.address}", file=sys.stderr, flush=True)
        signal.sigwait(signals)


def _read_rule(path: str) -> Rule:
    from sealpod.kbs.core.policy import MAX_COLUMN, Rule

    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return Rule.from_json(file.read(MAX_COLUMN + 1))
    except FileNotFoundError:
        raise NotFoundError(f"no file {path!r}", code="policy.file") from None
    except PermissionError:
        raise AccessError(f"no permission to read {path!r}", code="policy.file") from None
    except OSError as error:
        raise OperationError(f"cannot read {path!r}: {error.strerror}", code="policy.file") from error

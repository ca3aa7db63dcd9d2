# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs serve``: the key broker in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sealpod.cli.kbs_common import DATABASE_VARIABLE, Nouns, add_database_option, database_url
from sealpod.cli.kbs_serve_config import server_config
from sealpod.cli.kbs_serve_options import add_serving_options

if TYPE_CHECKING:
    from sealpod.kbs.server import RunningBroker

GRPC_VARIABLE: Final = "GRPC_VERBOSITY"
RUST_VARIABLE: Final = "RUST_LOG"
"""simple-kbs' level of logging; taken where it names one of ours for everything."""

DESCRIPTION: Final = """\
Answer launches and guests over gRPC until stopped. Prints `listening on HOST:PORT` on standard error when
ready. SIGTERM and Ctrl-C end it after the calls in progress; SIGHUP has certificates and the default policy
read again, which also happens when they change.
"""
EPILOG: Final = f"""\
The database's URL may come from ${DATABASE_VARIABLE} or simple-kbs' KBS_DB_TYPE, KBS_DB_HOST, KBS_DB_USER,
KBS_DB_PW and KBS_DB, where a password stays private; so may the level of logging from ${RUST_VARIABLE}.
Without --default-policy, default_policy.json of the working directory counts if it is there, and so does the
directory resources.
"""


def add_commands(nouns: Nouns) -> None:
    """``serve``."""
    parser = nouns.add_parser(
        "serve",
        help="Answer launches and guests over gRPC until stopped",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(action=_serve)
    add_database_option(parser)
    add_serving_options(parser)


def _serve(args: argparse.Namespace) -> int:
    # Blocked before gRPC starts its threads, which inherit that: a signal that one of them took would not
    # wake the main thread.
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        _serve_until(signals, args)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def _serve_until(signals: set[signal.Signals], args: argparse.Namespace) -> None:
    # gRPC's core would write lines of its own form between ours, of failures that ours tell too.
    os.environ.setdefault(GRPC_VARIABLE, "NONE")
    from sealpod.kbs.server import serve
    from sealpod.kbs.server.logs import configure, rust_level

    level = args.log_level or rust_level(os.environ.get(RUST_VARIABLE)) or "info"
    configure(level, args.log_format)
    _allow_files()
    _leave_no_core()
    broker = serve(server_config(args, database_url(args)))
    try:
        _announce(broker)
        while signal.sigwait(signals) == signal.SIGHUP:
            broker.reload()
    finally:
        broker.stop(args.grace)


def _announce(broker: RunningBroker) -> None:
    if broker.ops_address is not None:
        print(f"probes and metrics on {broker.ops_address}", file=sys.stderr)
    if broker.admin_address is not None:
        print(f"admin API on {broker.admin_address}", file=sys.stderr)
    if broker.guest_address is not None:
        print(f"guests on {broker.guest_address}", file=sys.stderr)
    print(f"listening on {broker.address}", file=sys.stderr, flush=True)


def _allow_files() -> None:
    """Each caller is an open file, and the usual limit of a shell is lower than that of connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _leave_no_core() -> None:
    """A crash must not write keys and secrets into a file, or hand them to a collector of such files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

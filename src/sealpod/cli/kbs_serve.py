# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs serve``: the key broker in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import logging
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
ready, and tells systemd (Type=notify). SIGTERM and Ctrl-C end it after the calls in progress; SIGHUP has
certificates, tokens and the default policy read again, which also happens when they change.
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


class _StoppedAtStart(Exception):
    """SIGTERM or Ctrl-C came before the database."""


def _serve_until(signals: set[signal.Signals], args: argparse.Namespace) -> None:
    # gRPC's core would write lines of its own form between ours, of failures that ours tell too.
    os.environ.setdefault(GRPC_VARIABLE, "NONE")
    from sealpod.cli import sdnotify
    from sealpod.kbs.server import serve
    from sealpod.kbs.server.logs import configure, rust_level

    level = args.log_level or rust_level(os.environ.get(RUST_VARIABLE)) or "info"
    configure(level, args.log_format)
    _allow_files()
    _leave_no_core()
    try:
        broker = serve(server_config(args, database_url(args)), sleep=lambda time: _sleep(signals, time))
    except _StoppedAtStart:
        logging.getLogger(__name__).info("stopped while waiting for the database")
        return
    try:
        _announce(broker, args.log_format)
        sdnotify.notify(sdnotify.READY)
        while signal.sigwait(signals) == signal.SIGHUP:
            sdnotify.notify(sdnotify.RELOADING)
            broker.reload()
            sdnotify.notify(sdnotify.READY)
    finally:
        sdnotify.notify(sdnotify.STOPPING)
        broker.stop(args.grace)


def _sleep(signals: set[signal.Signals], seconds: float) -> None:
    """Pass the time until a signal ends it: blocked ones reach nobody who only sleeps.

    :raise _StoppedAtStart: one that stops came.
    """
    found = signal.sigtimedwait(signals, seconds)
    if found is not None and found.si_signo != signal.SIGHUP:
        raise _StoppedAtStart


def _announce(broker: RunningBroker, form: str) -> None:
    """Say where it answers: on lines of their own for people and scripts, or each in the form of the log."""
    lines = [
        f"{what} {address}"
        for what, address in (
            ("probes and metrics on", broker.ops_address),
            ("admin API on", broker.admin_address),
            ("guests on", broker.guest_address),
            ("listening on", broker.address),
        )
        if address is not None
    ]
    if form == "json":
        for line in lines:
            logging.getLogger(__name__).info(line)
    else:
        print("\n".join(lines), file=sys.stderr, flush=True)


def _allow_files() -> None:
    """Each caller is an open file, and the usual limit of a shell is lower than that of connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _leave_no_core() -> None:
    """A crash must not write keys and secrets into a file, or hand them to a collector of such files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

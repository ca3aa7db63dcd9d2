# SPDX-License-Identifier: Apache-2.0
"""``sealpod snapshotter``: containerd's proxy snapshotter for images that only guests unpack."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from typing import Final

ADDRESS: Final = "/run/sealpod/snapshotter.sock"
ROOT: Final = "/var/lib/containerd/io.containerd.snapshotter.v1.sealpod"
"""Where containerd and kubelet look for the disk an external snapshotter named ``sealpod`` fills."""
LOG_FORMAT: Final = "%(levelname)s %(name)s %(message)s"

HELP: Final = f"""\
Serve containerd's proxy snapshotter for guests' images, until SIGTERM or Ctrl-C.

containerd takes every layer for unpacked, so a pull for a pod fetches none; the guest pulls the image itself.
Name it in containerd's configuration:

  [proxy_plugins.sealpod]
    type = "snapshot"
    address = "{ADDRESS}"

and give it to the runtimes (containerd 1.7: `snapshotter = "sealpod"` of a runtime, with pods annotated
io.containerd.cri.runtime-handler) or to the whole node (containerd 1.6). On such a node, name the images that
runc is to run with --host-images; others have no files here.

Prints `snapshotter ready on SOCKET` on standard output when it answers, and tells systemd (Type=notify).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``sealpod snapshotter``."""
    parser.add_argument(
        "--address",
        metavar="SOCKET",
        default=ADDRESS,
        help=f"unix socket to answer on; only this user may open it (default: {ADDRESS})",
    )
    parser.add_argument(
        "--root", metavar="DIR", default=ROOT, help=f"directory of its state and files (default: {ROOT})"
    )
    parser.add_argument(
        "--host-images",
        metavar="PATTERN",
        action="append",
        default=[],
        help="unpack images whose whole name matches on this host, as an ordinary overlay snapshotter does, "
        "for runc (for instance 'registry.example/kube-system/*'); needs disable_snapshot_annotations = "
        "false; may be repeated",
    )
    parser.add_argument(
        "--content",
        metavar="DIR",
        default="",
        help="containerd's content store, where the names of images' users are read (default: "
        "io.containerd.content.v1.content beside the root)",
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning"), default="info", help="default: info"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
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
    import logging

    from sealpod.cli import sdnotify
    from sealpod.snapshotter.serve import serving

    logging.basicConfig(stream=sys.stderr, level=args.log_level.upper(), format=LOG_FORMAT)
    address = os.path.abspath(args.address)
    with serving(address, args.root, tuple(args.host_images), args.content):
        # Whoever started it may not read on.
        with contextlib.suppress(BrokenPipeError):
            print(f"snapshotter ready on {address}", flush=True)
        sdnotify.notify(sdnotify.READY)
        signal.sigwait(signals)
        sdnotify.notify(sdnotify.STOPPING)

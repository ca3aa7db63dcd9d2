# SPDX-License-Identifier: Apache-2.0
"""``sealpod snapshotter``: containerd's proxy snapshotter for images that only guests unpack."""

from __future__ import annotations

import argparse
import signal
import threading
from typing import Final

HELP = """\
Serve containerd's proxy snapshotter for guests' images, until SIGTERM.

containerd takes every layer for unpacked, so this host never fetches one; the guest pulls the image itself.
Name it in containerd's configuration:

  [proxy_plugins.sealpod]
    type = "snapshot"
    address = "/run/sealpod/snapshotter.sock"

and give it to the runtimes (containerd 1.7: `snapshotter = "sealpod"` of a runtime, with pods annotated
io.containerd.cri.runtime-handler) or to the whole node (containerd 1.6). Images it serves cannot be run
by runc.
"""

ADDRESS: Final = "/run/sealpod/snapshotter.sock"
ROOT: Final = "/var/lib/sealpod/snapshotter"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``sealpod snapshotter``."""
    parser.add_argument("--address", metavar="SOCKET", default=ADDRESS, help=f"default: {ADDRESS}")
    parser.add_argument("--root", metavar="DIR", default=ROOT, help=f"where its state is (default: {ROOT})")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    import os

    from sealpod.snapshotter.serve import serving

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    os.makedirs(os.path.dirname(os.path.abspath(args.address)), mode=0o700, exist_ok=True)
    with serving(os.path.abspath(args.address), args.root):
        print(f"snapshotter ready on {args.address}", flush=True)
        ended.wait()
    return 0

# SPDX-License-Identifier: Apache-2.0
"""``sealpod guest build`` and ``sealpod guest show``: the guest's kernel, initrd and firmware."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from sealpod.errors import UsageError

if TYPE_CHECKING:
    from sealpod.guestimage.aptsources import Mirror
    from sealpod.guestimage.manifest import Manifest

HELP = "Build the guest kernel and initrd"

DESCRIPTION = """\
Build the guest image from Debian packages, pinned Python wheels and sealpod's own code, and fetch the
firmware when the system has none. Needs apt-get, dpkg-deb and pip, but no root rights, and
leaves the system's package state alone. The same inputs give the same bytes.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser(
        "build", help="make the guest image if it is missing or stale", description=DESCRIPTION
    )
    _add_common(build)
    build.add_argument("--force", action="store_true", help="build even if the image is up to date")
    build.add_argument(
        "--refresh", action="store_true", help="fetch newer packages than the cache's, and build"
    )
    build.add_argument(
        "--mirror", metavar="URL", help="Debian mirror (default: the one in this machine's apt sources)"
    )
    build.add_argument(
        "--security-mirror", metavar="URL", help="mirror of Debian's security archive, with --mirror"
    )
    build.add_argument("--keyring", metavar="FILE", help="keys the mirror is signed with, with --mirror")
    build.add_argument(
        "--agent-config",
        metavar="FILE",
        help="settings of the guest's agent, used by guests started with "
        "agent.config_file=/etc/agent-config.toml (default: none that restricts anything)",
    )
    build.add_argument("-q", "--quiet", action="store_true", help="no progress on standard error")
    show = actions.add_parser("show", help="tell where the guest image is and what it was built from")
    _add_common(show)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", metavar="DIR", help="the image's directory (default: in the cache)")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form of the result")


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand."""
    return _build(args) if args.action == "build" else _show(args)


def _build(args: argparse.Namespace) -> int:
    from sealpod.cli.progress import Progress
    from sealpod.guestimage.build import build
    from sealpod.guestimage.cache import cache_directory, image_directory

    cache = cache_directory()
    progress = Progress(quiet=args.quiet)
    try:
        result = build(
            args.directory or image_directory(cache),
            cache,
            lambda step, text: progress.step(f"{step}: {text}"),
            mirror=_mirror(args),
            agent_config=_agent_config(args.agent_config),
            force=args.force,
            refresh=args.refresh,
        )
    finally:
        progress.clear()
    _print(args.output, result.directory, result.firmware, result.manifest, built=result.built)
    return 0


def _show(args: argparse.Namespace) -> int:
    from sealpod.guestimage import image_directory, locate

    directory = args.directory or image_directory()
    image = locate(directory)
    _print(args.output, directory, image.firmware, image.manifest)
    return 0


def _agent_config(path: str | None) -> str:
    """The file for the guest's agent. A bad one is refused now; a guest with it would not start."""
    from sealpod.agent import configfile, endpoints
    from sealpod.guestimage.initrd import AGENT_CONFIG

    if path is None:
        return AGENT_CONFIG
    found = configfile.read(path)
    endpoints.parse(found.get("allowed_endpoints"), found.get("blocked_endpoints", ""))
    return path


def _mirror(args: argparse.Namespace) -> Callable[[], Mirror]:
    from sealpod.guestimage.aptsources import Mirror
    from sealpod.guestimage.debian import system_mirror

    if args.mirror is None:
        if args.keyring or args.security_mirror:
            raise UsageError("--keyring and --security-mirror go with --mirror")
        return system_mirror
    mirror = Mirror(args.mirror, args.security_mirror, args.keyring or "")
    return lambda: mirror


def _print(form: str, directory: str, firmware: str, manifest: Manifest, **more: object) -> None:
    if form == "json":
        document = {**json.loads(manifest.encode()), "directory": directory, "firmware": firmware, **more}
        print(json.dumps(document, indent=1))
        return
    for name, output in sorted(manifest.outputs.items()):
        path = f"{directory}/{output.file}"
        print(f"{name:<9} {path}  {output.size} bytes  sha256 {output.sha256}")
    print(f"{'firmware':<9} {firmware}")

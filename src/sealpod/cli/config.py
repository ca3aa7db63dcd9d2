# SPDX-License-Identifier: Apache-2.0
"""``sealpod config check``: what a Kata configuration file and a pod's annotations come to."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from sealpod.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from sealpod.kataconfig.settings import Settings

HELP: Final = "Check a Kata configuration file"

DESCRIPTION: Final = """\
Print the settings a Kata configuration file comes to, with where each came from: what the containerd
runtimes `kata`, `kata-qemu` and `kata-qemu-sev` make of it. Without FILE: the one that KATA_CONF_FILE names,
else the first that exists of
  /etc/kata-containers/configuration.toml
  /usr/share/defaults/kata-containers/configuration.toml
Unknown keys, and keys without effect here, are warned of on standard error; the runtime logs them too.
"""

_SCHEMA_VERSION: Final = 1
_FILES: Final = ("firmware", "kernel", "initrd")
_PAIR: Final = ("kernel", "initrd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="print the settings a file comes to, and what is wrong with it",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("file", metavar="FILE", nargs="?", help="configuration file (TOML)")
    check.add_argument(
        "--annotation", metavar="KEY=VALUE", action="append", default=[], help="as on a pod; may be repeated"
    )
    check.add_argument("--strict", action="store_true", help="exit with 1 when there are warnings")
    check.add_argument("-o", "--output", choices=("text", "json"), default="text", help="what to print")


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand (there is one)."""
    from sealpod.kataconfig.annotations import apply_annotations
    from sealpod.kataconfig.document import parse
    from sealpod.kataconfig.settings import settings_of
    from sealpod.sandbox.configfile import read_config
    from sealpod.sandbox.podsettings import findings

    path = args.file if args.file is not None else _default_path()
    settings = apply_annotations(settings_of(parse(read_config(path))), _annotations(args.annotation))
    warnings = [
        *findings(settings),
        # With neither, those of `sealpod guest build` are used.
        *(f"{name} is not set" for name in _PAIR if not getattr(settings, name) and any(_pair(settings))),
    ]
    for warning in warnings:
        print(f"sealpod: warning: {path}: {warning}", file=sys.stderr)
    _print(args.output, path, settings, warnings)
    _require_files(settings)
    return 1 if args.strict and warnings else 0


def _pair(settings: Settings) -> tuple[str, str]:
    return settings.kernel, settings.initrd


def _default_path() -> str:
    from sealpod.sandbox.configfile import ENVIRONMENT, LOCATIONS, find_config

    if path := find_config("", {}, os.environ):
        return path
    raise NotFoundError(
        f"there is no Kata configuration at {' or '.join(LOCATIONS)}",
        code="config.not-found",
        remedy=f"name a file, or set {ENVIRONMENT}",
    )


def _annotations(given: list[str]) -> dict[str, str]:
    found = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise UsageError(f"not an annotation: {one[:80]!r}", remedy="give --annotation KEY=VALUE")
        found[name] = value
    return found


def _rows(settings: Settings) -> dict[str, dict[str, object]]:
    """Each setting with its value and origin, and the mode that follows from several."""
    from sealpod.sandbox.podsettings import kernel_words

    rows = {
        name: {"value": getattr(settings, name), **asdict(origin)}
        for name, origin in settings.origins.items()
        if name not in ("image", "secret")
    }
    rows["mode"] = {"value": settings.mode, **asdict(settings.origins["secret"])}
    rows["kernel_params"]["value"] = kernel_words(settings)
    return dict(sorted(rows.items()))


def _print(form: str, path: str, settings: Settings, warnings: list[str]) -> None:
    rows = _rows(settings)
    if form == "json":
        document = {"schemaVersion": _SCHEMA_VERSION, "file": path, "settings": rows, "warnings": warnings}
        print(json.dumps(document, indent=2))
        return
    for name, row in rows.items():
        origin = f"{row['source']} {row['name']}".rstrip()
        print(f"{name:<22} {_shown(row['value'])}  ({origin})")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "-"
    return str(value) or "-"


def _require_files(settings: Settings) -> None:
    missing = [
        f"{name} {path}"
        for name in _FILES
        if (path := str(getattr(settings, name))) and not os.path.isfile(path)
    ]
    if missing:
        raise NotFoundError(
            f"there is no {', no '.join(missing)}",
            code="config.missing-file",
            remedy="correct the path, or install the file",
        )

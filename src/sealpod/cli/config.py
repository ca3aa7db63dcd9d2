# SPDX-License-Identifier: Apache-2.0
"""``sealpod config check``: what a Kata configuration file and a pod's annotations come to."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from sealpod.errors import AccessError, DecodeError, NotFoundError, UsageError

if TYPE_CHECKING:
    from sealpod.kataconfig.settings import Settings

HELP: Final = "Check a Kata configuration file"

ENVIRONMENT: Final = "KATA_CONF_FILE"
LOCATIONS: Final = (
    "/etc/kata-containers/configuration.toml",
    "/usr/share/defaults/kata-containers/configuration.toml",
)
DESCRIPTION: Final = f"""\
Print the settings a Kata configuration file comes to, with where each came from. Without FILE: the one that
{ENVIRONMENT} names, else the first that exists of
  {LOCATIONS[0]}
  {LOCATIONS[1]}
Unknown keys, and keys without effect here, are warned of on standard error.
"""

_SCHEMA_VERSION: Final = 1
_MAX_BYTES: Final = 1024 * 1024  # more than four times what is read of a file, in characters
_FILES: Final = ("firmware", "kernel", "initrd")


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

    path = args.file if args.file is not None else _default_path()
    settings = apply_annotations(settings_of(parse(_read(path))), _annotations(args.annotation))
    warnings = [
        *settings.findings(),
        *(f"{name} is not set" for name in _FILES if not getattr(settings, name)),
    ]
    for warning in warnings:
        print(f"sealpod: warning: {path}: {warning}", file=sys.stderr)
    _print(args.output, path, settings, warnings)
    _require_files(settings)
    return 1 if args.strict and warnings else 0


def _default_path() -> str:
    named = os.environ.get(ENVIRONMENT)
    if named:
        return named
    for path in LOCATIONS:
        if os.path.exists(path):
            return path
    raise NotFoundError(
        f"there is no Kata configuration at {' or '.join(LOCATIONS)}",
        code="config.not-found",
        remedy=f"name a file, or set {ENVIRONMENT}",
    )


def _read(path: str) -> str:
    try:
        with open(path, "rb") as source:
            data = source.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise DecodeError(f"{path} has more than {_MAX_BYTES} bytes", code="config.size")
        return data.decode()
    except FileNotFoundError as error:
        raise NotFoundError(f"no such file: {path}", code="config.not-found") from error
    except OSError as error:
        raise AccessError(f"cannot read {path}: {error.strerror}", code="config.unreadable") from error
    except UnicodeDecodeError as error:
        raise DecodeError(f"{path} is not UTF-8", code="config.syntax") from error


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
    rows = {
        name: {"value": getattr(settings, name), **asdict(origin)}
        for name, origin in settings.origins.items()
        if name not in ("image", "secret")
    }
    rows["mode"] = {"value": settings.mode, **asdict(settings.origins["secret"])}
    rows["kernel_params"]["value"] = settings.kernel_words
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

# SPDX-License-Identifier: Apache-2.0
"""containerd's command line for a shim: Go's flags, then an action.

``-name value``, ``-name=value`` and the same with two dashes; the first word that is no flag is the action.
Flags of newer containerds that are not known here are skipped with their value. Nothing heavy is imported,
because ``start`` has to answer at once.
"""

from __future__ import annotations

from typing import NamedTuple

BOOLEAN = ("debug", "v", "version", "info")
ACTIONS = ("start", "delete")
RUNTIMES = ("kata", "kata-qemu", "kata-qemu-sev")
_TEXT = ("namespace", "id", "address", "publish-binary", "bundle", "socket", "runtime")
_FALSE = ("0", "f", "F", "false", "False", "FALSE")


class Arguments(NamedTuple):
    """What containerd said. ``action`` is ``start``, ``delete`` or empty (serve)."""

    action: str = ""
    namespace: str = ""
    id: str = ""
    address: str = ""
    publish_binary: str = ""
    bundle: str = ""
    socket: str = ""
    runtime: str = ""
    debug: bool = False
    version: bool = False
    info: bool = False


def parse(words: list[str]) -> Arguments:
    """The arguments in ``words`` (without the program). ValueError when a flag lacks its value."""
    values: dict[str, str] = {}
    given: set[str] = set()
    position, count = 0, len(words)
    while position < count and words[position].startswith("-") and words[position] != "-":
        word = words[position]
        position += 1
        if word == "--":
            break
        name, equals, value = word[2 if word.startswith("--") else 1 :].partition("=")
        if name in BOOLEAN:
            if value not in _FALSE:
                given.add(name)
            continue
        if not equals:
            following = words[position] if position < count else ""
            # A flag that is not known may have no value: what can only be something else is not taken.
            if name not in _TEXT and (following in ("", *ACTIONS) or following.startswith("-")):
                continue
            if position == count:
                raise ValueError(f"flag needs an argument: -{name}")
            value = following
            position += 1
        if name in _TEXT:
            values[name.replace("-", "_")] = value
    return Arguments(
        action=words[position] if position < count else "",
        debug="debug" in given,
        version=bool(given & {"v", "version"}),
        info="info" in given,
        **values,
    )


def runtime_of(program: str) -> str:
    """The runtime a program's name asks for: ``containerd-shim-kata-qemu-sev-v2`` is ``kata-qemu-sev``.

    Any other name is ``kata``, the plain one.
    """
    name = program.rpartition("/")[2].removeprefix("containerd-shim-").removesuffix("-v2")
    return name if name in RUNTIMES else "kata"

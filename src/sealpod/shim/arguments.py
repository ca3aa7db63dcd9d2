# SPDX-License-Identifier: Apache-2.0
"""containerd's command line for a shim: Go's flags, then an action.

``-name value``, ``-name=value`` and the same with two dashes; the first word that is no flag is the action.
Flags of newer containerds that are not known here are skipped with their value. Nothing heavier than ``os``
is imported, because ``start`` has to answer at once.
"""

from __future__ import annotations

from typing import NamedTuple

BOOLEAN = ("debug", "v", "version", "info")
RUNTIMES = ("kata", "kata-qemu", "kata-qemu-sev")


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


def parse(words: list[str]) -> Arguments:
    """The arguments in ``words`` (without the program). ValueError when a flag lacks its value."""
    values: dict[str, str] = {}
    given: set[str] = set()
    action = ""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            action = word
            break
        name, equals, value = word.lstrip("-").partition("=")
        if name in BOOLEAN:
            if value.lower() not in ("false", "0"):
                given.add(name)
            continue
        if not equals:
            try:
                value = next(rest)
            except StopIteration:
                raise ValueError(f"flag needs an argument: -{name}") from None
        values[name.replace("-", "_")] = value
    known = {name: values[name] for name in Arguments._fields if name in values}
    return Arguments(
        action=action,
        debug="debug" in given,
        version=bool(given & {"v", "version"}),
        **known,
    )


def runtime_of(program: str) -> str:
    """The runtime a program's name asks for: ``containerd-shim-kata-qemu-sev-v2`` is ``kata-qemu-sev``.

    Any other name is ``kata``, the plain one.
    """
    name = program.rpartition("/")[2].removeprefix("containerd-shim-").removesuffix("-v2")
    return name if name in RUNTIMES else "kata"

# SPDX-License-Identifier: Apache-2.0
"""``sealpod sandbox``: the pods of this machine that containerd's runtime runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from sealpod.errors import ConflictError, SealpodError

HELP: Final = "Show the pods of this machine"

DESCRIPTION: Final = """\
Show the sandboxes (pods) of the containerd runtimes `kata`, `kata-qemu` and `kata-qemu-sev` on this machine.

A sandbox whose shim is gone is shown as `dead`: containerd cleans it up when it notices; `rm` does so now.
"""
_SCHEMA_VERSION: Final = 1
_ALIVE: Final = "running"
_DEAD: Final = "dead"
_SHORT: Final = 13  # characters of an id, as crictl shows them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    parser.description = DESCRIPTION
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="list the sandboxes")
    inspect = actions.add_parser("inspect", help="all that is known of a sandbox, its containers included")
    console = actions.add_parser("console", help="what a sandbox's guest printed last")
    metrics = actions.add_parser("metrics", help="the guest's own figures, of one sandbox or of all")
    remove = actions.add_parser("rm", help="remove what a dead sandbox left")
    for action in (inspect, console, remove):
        action.add_argument("id", metavar="ID", help="the sandbox's id, or its beginning")
    metrics.add_argument("id", metavar="ID", nargs="?", help="the sandbox's id, or its beginning")
    for action in (listing, inspect, console, metrics):
        action.add_argument(
            "-o", "--output", choices=("text", "json"), default="text", help="form of the output"
        )


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand."""
    actions: Mapping[str, Callable[[argparse.Namespace], int]] = {
        "ls": _list,
        "inspect": _inspect,
        "console": _console,
        "metrics": _metrics,
        "rm": _remove,
    }
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from sealpod.sandbox.state import SandboxState, sandbox_ids

    rows = []
    for sandbox_id in sandbox_ids():
        place = SandboxState(sandbox_id)
        # A sandbox may go while it is listed.
        record = _quietly(place.read)
        if record is not None:
            rows.append({"id": sandbox_id, "state": _state(record), **_chosen(record)})
    if args.output == "json":
        print(json.dumps({"schemaVersion": _SCHEMA_VERSION, "sandboxes": rows}, indent=2))
        return 0
    print(f"{'ID':<{_SHORT}}  {'STATE':<8}  {'RUNTIME':<13}  {'PLATFORM':<8}  {'CREATED':<25}  POD")
    for row in rows:
        shown = {name: str(row.get(name) or "-") for name in ("runtime", "platform", "created", "pod")}
        print(
            f"{row['id'][:_SHORT]:<{_SHORT}}  {row['state']:<8}  {shown['runtime']:<13}  "
            f"{shown['platform']:<8}  {shown['created']:<25}  {shown['pod']}"
        )
    if any(row["state"] == _DEAD for row in rows):
        print("\ndead: the shim is gone; `sealpod sandbox rm ID` removes what it left")
    return 0


def _chosen(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record.get(name, "") for name in ("pod", "namespace", "runtime", "platform", "created")}


def _state(record: Mapping[str, Any]) -> str:
    from sealpod.sandbox.state import is_alive

    processes = record.get("processes")
    return _ALIVE if isinstance(processes, dict) and is_alive(processes.get("shim")) else _DEAD


def _inspect(args: argparse.Namespace) -> int:
    sandbox_id, record = _find(args.id)
    if _state(record) == _DEAD:
        found = {**record, "id": sandbox_id, "state": _DEAD}
    else:
        found = {**record, **_ask(record, "Inspect")}
    if args.output == "json":
        print(json.dumps(found, indent=2))
        return 0
    for name, value in found.items():
        print(f"{name + ':':<15} {_shown(value)}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value) if value else "-"
    return str(value) if value not in ("", None) else "-"


def _console(args: argparse.Namespace) -> int:
    from sealpod.sandbox.state import SandboxState

    sandbox_id, record = _find(args.id)
    dead = _state(record) == _DEAD
    lines = SandboxState(sandbox_id).console() if dead else _ask(record, "Console").get("lines", [])
    if args.output == "json":
        print(json.dumps({"schemaVersion": _SCHEMA_VERSION, "id": sandbox_id, "lines": lines}, indent=2))
    else:
        print("".join(f"{line}\n" for line in lines), end="")
    return 0


def _metrics(args: argparse.Namespace) -> int:
    from sealpod.sandbox.state import SandboxState, sandbox_ids

    if args.id:
        wanted = [_find(args.id)]
    else:
        records = [(one, _quietly(SandboxState(one).read)) for one in sandbox_ids()]
        wanted = [(one, record) for one, record in records if record and _state(record) == _ALIVE]
    found = {one: str(_ask(record, "Metrics").get("metrics", "")) for one, record in wanted}
    if args.output == "json":
        print(json.dumps({"schemaVersion": _SCHEMA_VERSION, "metrics": found}, indent=2))
        return 0
    for sandbox_id, text in found.items():
        print(f"# sandbox {sandbox_id}\n{text.rstrip()}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    from sealpod.sandbox.cleanup import clean_up

    sandbox_id, record = _find(args.id)
    if _state(record) != _DEAD:
        raise ConflictError(
            f"the shim of sandbox {sandbox_id} is running",
            code="sandbox.alive",
            remedy="stop the pod instead (crictl stopp, ctr task kill, kubectl delete)",
        )
    clean_up(sandbox_id)
    print(sandbox_id)
    return 0


def _find(prefix: str) -> tuple[str, dict[str, Any]]:
    """Id and record of the one sandbox whose id begins so."""
    from sealpod.sandbox.state import SandboxState, sandbox_ids

    ids = sandbox_ids()
    found = [prefix] if prefix in ids else [one for one in ids if one.startswith(prefix)]
    if len(found) > 1:
        raise ConflictError(
            f"{len(found)} sandboxes begin with {prefix!r}",
            code="sandbox.ambiguous",
            remedy="give more of the id",
        )
    place = SandboxState(found[0] if found else prefix)
    return place.id, place.read()


def _ask(record: Mapping[str, Any], method: Any) -> dict[str, Any]:
    from sealpod.sandbox.shimclient import ask

    return ask(str(record.get("socket", "")), method)


def _quietly(read: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return read()
    except SealpodError:
        return None

# SPDX-License-Identifier: Apache-2.0
"""Resources: files the broker releases by their type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sealpod.kbs.admin.bodies import POLICY
from sealpod.kbs.admin.noun import Noun, Object, Setting, Verbs
from sealpod.kbs.admin.schema import flag, nullable, structure, text

if TYPE_CHECKING:
    import argparse

    from sealpod.kbs.store.database import Database

_TYPE: Final = text("what a guest asks for", minLength=1)
_PATH: Final = text("path under the broker's directory of resources", minLength=1)


def _verbs() -> Verbs:
    from sealpod.kbs.store import resources

    return Verbs.of(resources.list_resources, resources.show_resource, {"delete": resources.delete_resource})


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--type",
        dest="kind",
        metavar="TYPE",
        required=True,
        help="what a request asks for, for instance Policy or default/security-policy/test",
    )
    parser.add_argument("--path", required=True, help="its file, below the directory the broker is given")
    parser.add_argument("--policy", metavar="NAME", help="who may have it")


def _reads(args: argparse.Namespace) -> Object:
    return {"type": args.kind, "path": args.path, "policy": args.policy}


def _write(db: Database, key: str, body: Object) -> None:
    from sealpod.kbs.store.resources import set_resource

    set_resource(db, key, kind=body["type"], path=body["path"], policy=body.get("policy"))


def _done(key: str, _body: Object, shown: Object) -> tuple[str, Object]:
    what = f"{shown['type']} is {shown['path']}"
    return f"resource {key} set: {what}, policy: {shown['policy'] or 'none'}", shown


RESOURCE: Final = Noun(
    name="resources",
    noun="resource",
    title="Resources: files that are released by their type",
    about="files that guests get under a type",
    help={
        "set": "Make or replace a resource",
        "list": "List all resources in the order in which requests find them",
        "show": "Show a resource",
        "delete": "Delete a resource; its file stays",
    },
    shown=structure(
        {
            "id": text("its id"),
            "type": nullable(_TYPE),
            "path": nullable(_PATH),
            "policy": POLICY,
            "first": flag("whether requests for its type get this one"),
        }
    ),
    header=("ID", "TYPE", "PATH", "POLICY", "FIRST"),
    verbs=_verbs,
    setting=Setting(
        structure({"type": _TYPE, "path": _PATH, "policy": POLICY}, "type", "path"),
        _options,
        _reads,
        _write,
        _done,
        id_help="what it is called here",
    ),
    deletes="Delete it; the file stays",
)

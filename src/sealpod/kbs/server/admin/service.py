# SPDX-License-Identifier: Apache-2.0
"""The admin verbs on the database: list, show, set, delete, ``policy test`` and ``policy suggest``.

One function per kind of thing and verb, objects in and out; the HTTP application and the command line call
the same ones.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sealpod.errors import UsageError
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.policy import ALLOW_ALL, Rule
from sealpod.kbs.core.ports import ResourceFiles
from sealpod.kbs.server.admin import objects
from sealpod.kbs.server.admin.objects import Object
from sealpod.kbs.server.admin.suggestion import Guest, guests_of_record, suggest
from sealpod.kbs.server.admin.trial import try_launch
from sealpod.kbs.store import connections, keysets, launches, policies, reports, resources, secrets
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import Database
from sealpod.secret import SecretBytes


@dataclass(frozen=True, slots=True)
class Admin:
    """The verbs, on one database. ``rule`` gives the broker's default policy as it is now."""

    db: Database
    rule: Callable[[], Rule] = lambda: ALLOW_ALL
    limits: Limits | None = None
    files: ResourceFiles | None = None

    def list(self, name: str) -> list[Object]:
        """All of one kind; of connections and launches the newest thousand."""
        return _LIST[name](self.db)

    def show(self, name: str, key: str, *, reveal: bool = False) -> Object:
        """One of them, with its value if ``reveal`` and it has one. :raise NotFoundError: there is none."""
        if name == "secrets":
            shown = objects.secret(secrets.show_secret(self.db, key))
            return (
                {**shown, "value": secrets.reveal_secret(self.db, key).reveal().decode()} if reveal else shown
            )
        return _SHOW[name](self.db, key)

    def set(self, name: str, key: str, body: Object) -> Object:
        """Make or replace one, and give it as it is shown.

        :raise UsageError: it cannot be like that. :raise NotFoundError: what it refers to is not there.
        """
        _SET[name](self.db, key, body)
        return self.show(name, key)

    def delete(self, name: str, key: str) -> None:
        """:raise NotFoundError: there is none. :raise ConflictError: something refers to it."""
        _DELETE[name](self.db, key)

    def test(self, body: Object) -> Object:
        """``policy test``."""
        evidence, requests = objects.read_launch(body)
        done = try_launch(
            SqlBrokerStore(self.db),
            evidence,
            requests,
            default=self.rule(),
            limits=self.limits,
            files=self.files,
        )
        # Rules are called by number where they are judged, because that is what a row has.
        names = {str(one.number): one.name for one in policies.list_policies(self.db)}
        return objects.trial(done, names)


def suggest_policy(body: Object) -> Object:
    """``policy suggest``: needs no database."""
    guests = [guest for one in body.get("measurements", ()) for guest in guests_of_record(json.dumps(one))]
    guests.extend(Guest(b64decode(objects.digest(text))) for text in body.get("digests", ()))
    made = suggest(
        guests,
        policies=body.get("policies", ()),
        min_api=objects.version(body.get("minApi", "0.0")),
        build_ids=body.get("buildIds", ()),
    )
    return objects.suggestion(made)


def _set_secret(db: Database, key: str, body: Object) -> None:
    secrets.set_secret(db, key, _bytes(body["value"]), policy=body.get("policy"))


def _set_keyset(db: Database, key: str, body: Object) -> None:
    keysets.set_keyset(db, key, body["secrets"], policy=body.get("policy"))


def _set_policy(db: Database, key: str, body: Object) -> None:
    policies.set_policy(db, key, objects.read_rule(body))


def _set_resource(db: Database, key: str, body: Object) -> None:
    resources.set_resource(db, key, kind=body["type"], path=body["path"], policy=body.get("policy"))


def _set_report_key(db: Database, key: str, body: Object) -> None:
    private = body.get("privateKey")
    if private is None:
        reports.generate_report_key(db, key, policy=body.get("policy"))
    else:
        reports.set_report_key(db, key, _bytes(private), policy=body.get("policy"))


def _show_policy(db: Database, key: str) -> Object:
    info, users = policies.show_policy(db, key)
    return {**objects.policy(info), "usedBy": list(users)}


def _bytes(text: str) -> SecretBytes:
    try:
        return SecretBytes(b64decode(text, validate=True))
    except ValueError:
        # The decoder's words may quote what it read.
        raise UsageError("a value is not base64", code="admin.body") from None


_LIST: Final[Mapping[str, Callable[[Database], list[Object]]]] = {
    "secrets": lambda db: [objects.secret(one) for one in secrets.list_secrets(db)],
    "keysets": lambda db: [objects.keyset(one) for one in keysets.list_keysets(db)],
    "policies": lambda db: [objects.policy(one) for one in policies.list_policies(db)],
    "resources": lambda db: [objects.resource(one) for one in resources.list_resources(db)],
    "report-keys": lambda db: [objects.report_key(one) for one in reports.list_report_keys(db)],
    "connections": lambda db: [objects.connection(one) for one in connections.list_connections(db)],
    "launches": lambda db: [objects.launch(one) for one in launches.list_launches(db, now=time.time())],
}
_SHOW: Final[Mapping[str, Callable[[Database, str], Object]]] = {
    "keysets": lambda db, key: objects.keyset(keysets.show_keyset(db, key)),
    "policies": _show_policy,
    "resources": lambda db, key: objects.resource(resources.show_resource(db, key)),
    "report-keys": lambda db, key: objects.report_key(reports.show_report_key(db, key)),
    "connections": lambda db, key: objects.connection(connections.show_connection(db, key)),
    "launches": lambda db, key: objects.launch(launches.show_launch(db, key, now=time.time())),
}
_SET: Final[Mapping[str, Callable[[Database, str, Object], None]]] = {
    "secrets": _set_secret,
    "keysets": _set_keyset,
    "policies": _set_policy,
    "resources": _set_resource,
    "report-keys": _set_report_key,
}
_DELETE: Final[Mapping[str, Callable[[Database, str], None]]] = {
    "secrets": secrets.delete_secret,
    "keysets": keysets.delete_keyset,
    "policies": policies.delete_policy,
    "resources": resources.delete_resource,
    "report-keys": reports.delete_report_key,
    # The row stays as a record; retention removes it.
    "connections": connections.revoke_connection,
    "launches": launches.delete_launch,
}

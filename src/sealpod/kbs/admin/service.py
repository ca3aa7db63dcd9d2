# SPDX-License-Identifier: Apache-2.0
"""The admin verbs on a database, by the names of the API: list, show, set, delete, ``policy test``; and
``policy suggest``, which needs none. Objects in and out."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sealpod.kbs.admin import objects, rules
from sealpod.kbs.admin.noun import Object
from sealpod.kbs.admin.nouns import BY_NAME
from sealpod.kbs.admin.suggestion import Guest, guests_of_record, suggest
from sealpod.kbs.admin.trial import try_launch
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.core.policy import ALLOW_ALL, Rule
from sealpod.kbs.core.ports import ResourceFiles
from sealpod.kbs.store.broker import SqlBrokerStore
from sealpod.kbs.store.database import Database, Transaction
from sealpod.kbs.store.policies import list_policies


@dataclass(frozen=True, slots=True)
class Admin:
    """The verbs, on one database. ``rule`` gives the broker's default policy as it is now."""

    db: Database
    rule: Callable[[], Rule] = lambda: ALLOW_ALL
    limits: Limits | None = None
    files: ResourceFiles | None = None

    def list(self, name: str) -> Sequence[Object]:
        """All of one kind; of connections and launches the newest thousand."""
        return BY_NAME[name].verbs().list(self.db)

    def show(self, name: str, key: str, *, reveal: bool = False) -> Object:
        """One of them, with its value if ``reveal`` and it has one. :raise NotFoundError: there is none."""
        verbs = BY_NAME[name].verbs()
        shown = verbs.show(self.db, key)
        if reveal and verbs.reveal is not None:
            shown["value"] = verbs.reveal(self.db, key).reveal().decode()
        return shown

    def set(self, name: str, key: str, body: Object, *, within: Transaction | None = None) -> None:
        """Make or replace one.

        :raise UsageError: it cannot be like that. :raise NotFoundError: what it refers to is not there.
        """
        BY_NAME[name].sets().write(replace(self.db, transaction=within), key, body)

    def delete(self, name: str, key: str, *, within: Transaction | None = None) -> None:
        """Delete one, or withdraw what leaves a record.

        :raise NotFoundError: there is none. :raise ConflictError: something refers to it.
        """
        noun = BY_NAME[name]
        noun.verbs().ends[noun.api_end](replace(self.db, transaction=within), key)

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
        names = {str(one.number): one.name for one in list_policies(self.db)}
        return objects.trial(done, names)


def suggest_policy(body: Object) -> Object:
    """``policy suggest``: needs no database."""
    guests = [guest for one in body.get("measurements", ()) for guest in guests_of_record(json.dumps(one))]
    guests.extend(Guest(b64decode(rules.digest(text))) for text in body.get("digests", ()))
    made = suggest(
        guests,
        policies=body.get("policies", ()),
        min_api=rules.version(body.get("minApi", "0.0")),
        build_ids=body.get("buildIds", ()),
    )
    return objects.suggestion(made)

# SPDX-License-Identifier: Apache-2.0
"""One kind of thing the key owner manages: the command ``sealpod kbs NOUN`` and the route ``/v1/NAME``.

An entry has the words and options of the command, the JSON of the API, and what is done on the database.
Parsers and documents are made of entries alone, so the functions import the store when they are called:
SQLAlchemy takes longer to import than most commands run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sealpod.errors import UsageError
from sealpod.kbs.admin.schema import Schema

if TYPE_CHECKING:
    import argparse

    from sealpod.kbs.store.database import Database
    from sealpod.secret import SecretBytes

Object = dict[str, Any]
Options = Callable[["argparse.ArgumentParser"], object]

DONE: Final[Mapping[str, str]] = {"delete": "deleted", "revoke": "revoked", "withdraw": "withdrawn"}
"""What a verb that ends something has done; its member in JSON."""


@dataclass(frozen=True, slots=True)
class Verbs:
    """What can be done on a database. ``ends`` are the verbs that delete, or otherwise end, one thing."""

    list: Callable[..., Sequence[Object]]
    """All of a kind, as the options of ``list`` choose."""
    show: Callable[[Database, str], Object]
    ends: Mapping[str, Callable[[Database, str], None]]
    reveal: Callable[[Database, str], SecretBytes] | None = None
    """The value that ``show`` keeps to itself."""

    @classmethod
    def of(
        cls,
        every: Callable[..., Iterable[Any]],
        one: Callable[[Database, str], Any],
        ends: Mapping[str, Callable[[Database, str], None]],
        *,
        shown: Callable[[Any], Object] = asdict,
        reveal: Callable[[Database, str], SecretBytes] | None = None,
    ) -> Verbs:
        """Of functions that give all and one as they are to be ``shown``."""
        return cls(
            lambda db, **chosen: [shown(found) for found in every(db, **chosen)],
            lambda db, key: shown(one(db, key)),
            ends,
            reveal,
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """How one is made or replaced: the ``body`` of a request, which a command ``reads`` from its options.

    In a body that was read, secrets are :class:`~sealpod.secret.SecretBytes`; in a request they are base64.
    """

    body: Schema
    options: Options
    reads: Callable[[argparse.Namespace], Object]
    """:raise SealpodError: an option cannot be, or names a file that cannot be read."""
    write: Callable[[Database, str, Object], object]
    """:raise UsageError: it cannot be like that. :raise NotFoundError: what it refers to is not there."""
    done: Callable[[str, Object, Object], tuple[str, Object]]
    """From id, body and what is shown now: a sentence about what was done, and its JSON."""
    id_help: str | None = None
    note: Callable[[Object], str] = lambda _body: ""
    """What its owner should know about a body; ends a sentence that begins with the noun and the id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noun:
    """One kind of thing. ``name`` is in the route, ``noun`` the command."""

    name: str
    noun: str
    title: str
    """The command's help, beside that of its ``verbs``; ``about`` is the API's."""
    about: str
    help: Mapping[str, str]
    """The verbs in the order of their listing, with their help."""
    id: str = "id"
    """The member, and the argument, that names one."""
    id_help: str | None = None
    shown: Schema
    header: tuple[str, ...]
    verbs: Callable[[], Verbs]
    setting: Setting | None = None
    list_options: Options = lambda _parser: None
    chosen: Callable[[argparse.Namespace], Object] = lambda _args: {}
    """What the options of ``list`` ask for, as arguments of ``Verbs.list``."""
    yes_or_no: Mapping[str, str] = field(default_factory=dict)
    """Columns too wide for a table, which says under the other heading whether there is anything."""
    reveals: bool = False
    """Whether ``show`` can be asked for a value."""
    api_end: str = "delete"
    """The verb that the method DELETE is."""
    deletes: str = "Delete it"
    """What the API says of DELETE."""
    deleted: str = DONE["delete"]
    """What a sentence says of ``delete``."""

    @property
    def key(self) -> str:
        """The member that holds a list of them: ``reportKeys``."""
        first, *rest = self.name.split("-")
        return first + "".join(word.capitalize() for word in rest)

    @property
    def words(self) -> str:
        """The noun in a sentence."""
        return self.noun.replace("-", " ")

    @property
    def body(self) -> Schema | None:
        """What a request that sets one holds, for a kind that can be set."""
        return None if self.setting is None else self.setting.body

    def sets(self) -> Setting:
        """:raise UsageError: a kind that only comes about by itself."""
        if self.setting is None:
            raise UsageError(f"{self.name} cannot be set", code="admin.method")
        return self.setting

# SPDX-License-Identifier: Apache-2.0
"""The database's own clock in statements, in the form simple-kbs' date columns have.

The columns have no time zone; hand-written statements put the session's ``now()`` there. Comparing with the
same clock in the same zone is what keeps a policy set by such a statement from beginning an hour late.
SQLite keeps dates as text, whatever text: it is brought into one form first, and what is no date at all is
NULL then, which no comparison finds.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, DateTime, and_, case, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class Now(FunctionElement[Any]):
    """The present moment."""

    type = DateTime()
    inherit_cache = True
    name = "now"


class Ago(FunctionElement[Any]):
    """A moment some whole seconds ago."""

    type = DateTime()
    inherit_cache = False
    name = "ago"

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = int(seconds)


@compiles(Now, "sqlite")
def _sqlite_now(_element: Now, _compiler: SQLCompiler, **_: Any) -> str:
    return "datetime('now')"


@compiles(Now, "mysql", "mariadb")
def _mysql_now(_element: Now, _compiler: SQLCompiler, **_: Any) -> str:
    return "now()"


@compiles(Now)
def _now(_element: Now, _compiler: SQLCompiler, **_: Any) -> str:
    return "LOCALTIMESTAMP"


@compiles(Ago, "sqlite")
def _sqlite_ago(element: Ago, _compiler: SQLCompiler, **_: Any) -> str:
    return f"datetime('now', '-{element.seconds} seconds')"


@compiles(Ago, "mysql", "mariadb")
def _mysql_ago(element: Ago, _compiler: SQLCompiler, **_: Any) -> str:
    return f"(now() - INTERVAL {element.seconds} SECOND)"


@compiles(Ago)
def _ago(element: Ago, _compiler: SQLCompiler, **_: Any) -> str:
    return f"(LOCALTIMESTAMP - INTERVAL '{element.seconds} seconds')"


class Moment(FunctionElement[Any]):
    """A date column as something :class:`Now` can be compared with."""

    type = DateTime()
    inherit_cache = True
    name = "moment"


@compiles(Moment, "sqlite")
def _sqlite_moment(element: Moment, compiler: SQLCompiler, **keywords: Any) -> str:
    return f"datetime({compiler.process(element.clauses, **keywords)})"


@compiles(Moment)
def _moment(element: Moment, compiler: SQLCompiler, **keywords: Any) -> str:
    return compiler.process(element.clauses, **keywords)


def has_begun(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Not a moment to come; a row without one has always been."""
    return or_(column.is_(None), Moment(column) <= Now())


def has_not_ended(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """No moment that has passed; a row without one never ends."""
    return or_(column.is_(None), Moment(column) > Now())


def in_force(policy: Any) -> ColumnElement[Any]:
    """1 while a row of ``policy`` counts, else 0: marked valid, begun, not ended."""
    counts = and_(policy.c.valid == 1, has_begun(policy.c.create_date), has_not_ended(policy.c.delete_date))
    return case((counts, 1), else_=0)

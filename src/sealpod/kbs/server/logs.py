# SPDX-License-Identifier: Apache-2.0
"""The broker's log: lines for people or one JSON object a line, each with the number of its request.

No record's exception text is printed in JSON: an exception may quote the data it failed on. Its type and
its frames do not.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

LogFormat = Literal["text", "json"]

TEXT_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s [%(request)s] %(message)s"
REQUEST_HEADER: Final = "x-request-id"
"""Where a caller may name its request; an answer carries the name back."""
RUST_LEVELS: Final[Mapping[str, str]] = {
    "error": "error",
    "warn": "warning",
    "info": "info",
    "debug": "debug",
    "trace": "debug",
}
"""The levels of ``RUST_LOG``, simple-kbs' variable."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_request: ContextVar[str] = ContextVar("sealpod-kbs-request", default="-")


def begin_request(wanted: str | None) -> str:
    """Name this context's request: as its caller wants, if that is a plain short word, else at random."""
    name = wanted if wanted is not None and _REQUEST_ID.fullmatch(wanted) else uuid.uuid4().hex
    _request.set(name)
    return name


def current_request() -> str:
    """The name of this context's request; ``-`` outside of one."""
    return _request.get()


class _Named(logging.Filter):
    """Gives each record the name of its request."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request = _request.get()
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line, ASCII: ``time``, ``level``, ``logger``, ``request``, ``message``."""

    def format(self, record: logging.LogRecord) -> str:
        value: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "request": getattr(record, "request", "-"),
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            value["exception"] = record.exc_info[0].__name__
            value["frames"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(record.exc_info[2])
            ]
        return json.dumps(value)


def configure(level: str, form: LogFormat, stream: TextIO | None = None) -> None:
    """Send this process's log to ``stream`` (default: standard error)."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.addFilter(_Named())
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(TEXT_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It names each of its own plugins at every start.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)


def rust_level(value: str | None) -> str | None:
    """The level ``RUST_LOG`` asks for everything; None when it is not set or says something finer."""
    return None if value is None else RUST_LEVELS.get(value.strip().lower())

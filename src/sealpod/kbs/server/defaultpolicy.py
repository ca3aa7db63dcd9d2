# SPDX-License-Identifier: Apache-2.0
"""The policy every release must meet: a value, or simple-kbs' ``default_policy.json`` as it is now.

simple-kbs reads the file at each request. Here it is read when it changes; one that cannot be read is logged
and the last good one stays in force.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final

from sealpod.errors import DecodeError
from sealpod.kbs.core.broker import KeyBroker
from sealpod.kbs.core.policy import MAX_COLUMN, Rule
from sealpod.kbs.server.files import Watched, read_file

FILE_NAME: Final = "default_policy.json"
"""simple-kbs' name, looked for in the working directory."""


def read_rule(path: str) -> Rule:
    """:raise SealpodError: the file is missing, or not a policy."""
    raw = read_file(path, "default policy")
    if len(raw) > MAX_COLUMN:
        raise DecodeError(f"{path!r} is too large for a policy", code="policy.malformed")
    try:
        return Rule.from_json(raw.decode("utf-8", "replace"))
    except DecodeError as error:
        raise DecodeError(
            f"the default policy {path!r} cannot be read: {error.message}",
            code=error.code,
            remedy="correct the file",
        ) from None


class CurrentBroker:
    """The broker under the default policy as it is now; called for each request."""

    def __init__(self, make: Callable[[Rule], KeyBroker], rule: Rule, path: str | None) -> None:
        """:raise SealpodError: as :func:`read_rule`."""
        self._make = make
        self._file = None if path is None else Watched((path,), lambda: read_rule(path))
        self._rule = rule if self._file is None else self._file.get()
        self._broker = make(self._rule)
        self._lock = Lock()

    def __call__(self) -> KeyBroker:
        with self._lock:
            if self._file is not None and self._file.get() is not self._rule:
                self._rule = self._file.get()
                self._broker = self._make(self._rule)
            return self._broker

    @property
    def rule(self) -> Rule:
        """The default policy as it is now."""
        self()
        return self._rule

    def reload(self) -> None:
        """Read the file again, changed or not."""
        if self._file is not None:
            self._file.reload()

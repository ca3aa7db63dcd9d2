# SPDX-License-Identifier: Apache-2.0
"""Errors across a ttrpc or gRPC wire: family to status number and back.

The number tells the family (google.rpc.Code), the text is :meth:`SealpodError.one_line`, whose last word
in brackets is the stable code. A peer that knows nothing of sealpod still reads a sensible status and
sentence. The table is total over the families; a test holds it so.
"""

from __future__ import annotations

import re
from typing import Final

from sealpod import errors

# google.rpc.Code: 1 CANCELLED, 3 INVALID_ARGUMENT, 4 DEADLINE_EXCEEDED, 5 NOT_FOUND, 6 ALREADY_EXISTS,
# 7 PERMISSION_DENIED, 9 FAILED_PRECONDITION, 13 INTERNAL, 14 UNAVAILABLE, 15 DATA_LOSS, 16 UNAUTHENTICATED
STATUS_OF_FAMILY: Final[tuple[tuple[type[errors.SealpodError], int], ...]] = (
    (errors.InterruptError, 1),
    (errors.UsageError, 3),
    (errors.DeadlineError, 4),
    (errors.NotFoundError, 5),
    (errors.ConflictError, 6),
    (errors.RefusedError, 7),
    (errors.VerificationError, 9),
    (errors.UnavailableError, 14),
    (errors.DecodeError, 15),
    (errors.AccessError, 16),
    (errors.OperationError, 13),
    (errors.SealpodError, 13),
)
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13

_CODE_AT_END = re.compile(r"^(?P<text>.*) \[(?P<code>[a-z0-9]+(?:[.-][a-z0-9]+)*)\]$", re.DOTALL)


def to_status(error: Exception) -> tuple[int, str]:
    """Status number and text for an error; anything that is not ours becomes INTERNAL with its type name."""
    if not isinstance(error, errors.SealpodError):
        # The text of a foreign exception may quote data; its type does not.
        return INTERNAL, f"unexpected {type(error).__name__} [internal.error]"
    for family, number in STATUS_OF_FAMILY:
        if isinstance(error, family):
            return number, error.one_line()
    return INTERNAL, error.one_line()


def from_status(number: int, text: str) -> errors.SealpodError:
    """The error a status stands for. Unknown numbers become :class:`errors.OperationError`."""
    family: type[errors.SealpodError] = errors.OperationError
    for candidate, value in STATUS_OF_FAMILY:
        if value == number and candidate is not errors.SealpodError:
            family = candidate
            break
    match = _CODE_AT_END.match(text)
    if match is None:
        return family(text)
    message, _, remedy = match["text"].partition("; ")
    return family(message, code=match["code"], remedy=remedy)

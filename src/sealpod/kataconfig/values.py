# SPDX-License-Identifier: Apache-2.0
"""Values that a configuration and a pod's annotations both have, each with the form it must have.

``where`` names the key or annotation in messages.
"""

from __future__ import annotations

import re
import warnings
from typing import Final

from sealpod.errors import DecodeError

_URI: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", re.ASCII)
_MAX_PORT: Final = 65535
_MAX_PATTERN: Final = 200  # characters of one expression in enable_annotations


def kernel_words(text: str, where: str) -> tuple[str, ...]:
    """The words of kernel parameters. Double quotes are let through: what they mean is the runtime's matter.

    :raise DecodeError: when a word cannot stand on a kernel command line.
    """
    words = tuple(text.split())
    for word in words:
        if not (word.isascii() and word.isprintable()):
            raise DecodeError(
                f"{where}: {word[:80]!r} cannot stand on a kernel command line", code="config.value"
            )
    return words


def host_port(text: str, where: str) -> str:
    """A key broker's address, ``HOST:PORT`` or ``[IPV6]:PORT``.

    :raise DecodeError: when the text is anything else.
    """
    match = _URI.fullmatch(text)
    if match is None or not 0 < int(match[1]) <= _MAX_PORT:
        raise DecodeError(
            f"{where} is {text[:80]!r}, expected HOST:PORT", code="config.value", remedy="give no scheme"
        )
    return text


def name_pattern(text: str) -> re.Pattern[str]:
    """One expression of ``enable_annotations``.

    :raise DecodeError: when it is too long or no regular expression.
    """
    try:
        if len(text) > _MAX_PATTERN:
            raise ValueError("too long")
        with warnings.catch_warnings():  # of Python's on expressions it may one day read differently
            warnings.simplefilter("ignore")
            return re.compile(text, re.ASCII)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise DecodeError(
            f"enable_annotations: {text[:80]!r} is no regular expression: {str(error)[:80]}",
            code="config.value",
        ) from error

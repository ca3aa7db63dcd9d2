# SPDX-License-Identifier: Apache-2.0
"""Kernel modules of the guest image that are loaded only when something needs them.

``order`` lists them, one a line with what it needs after it. Modules from elsewhere are never loaded.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Final

from sealpod.agent import syscalls
from sealpod.errors import NotFoundError, OperationError, UsageError

DIRECTORY: Final = "/usr/lib/sealpod/modules"
LOADED: Final = "/sys/module"
CODE: Final = "sandbox.module"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,55}")


def load(name: str, parameters: str = "", *, directory: str = DIRECTORY, loaded: str = LOADED) -> None:
    """Load a module and what it needs, unless it is there. :class:`NotFoundError` if it is not ours."""
    if _NAME.fullmatch(name) is None or not parameters.isprintable():
        raise UsageError(f"{name[:64]!r} is no kernel module", code=CODE)
    _load(name.replace("-", "_"), parameters, _order(directory), directory, loaded)


def _load(name: str, parameters: str, order: dict[str, list[str]], directory: str, loaded: str) -> None:
    if os.path.isdir(os.path.join(loaded, name)):
        return
    if name not in order:
        text = f"the guest image has no kernel module {name}"
        raise NotFoundError(text, code=CODE, remedy="leave it out of the sandbox's kernel modules")
    for needed in order[name]:
        _load(needed, "", order, directory, loaded)
    descriptor = os.open(os.path.join(directory, f"{name}.ko"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.load_module(descriptor, parameters)
    except OSError as exc:
        if exc.errno != errno.EEXIST:
            raise OperationError(f"cannot load the kernel module {name}: {exc.strerror}", code=CODE) from exc
    finally:
        os.close(descriptor)


def _order(directory: str) -> dict[str, list[str]]:
    try:
        with open(os.path.join(directory, "order"), encoding="ascii") as file:
            lines = [line.split() for line in file]
    except FileNotFoundError:
        return {}
    return {words[0]: words[1:] for words in lines if words}

# SPDX-License-Identifier: Apache-2.0
"""Kernel parameters a pod may set: those that belong to its namespaces.

The OCI runtime sets a parameter only in a namespace it makes itself. Here the ipc namespace is the pod's and
the network is the VM's, so the agent writes them: ``net.*`` as it stands, the others inside the pod's ipc
namespace.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Final

from sealpod.agent.namespaces import Namespaces
from sealpod.errors import UsageError

ROOT: Final = "/proc/sys"
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:[./:@][A-Za-z0-9_-]+)*")
_NETWORK: Final = ("net.",)
_IPC: Final = ("kernel.shm", "kernel.msg", "fs.mqueue.")
_IPC_NAMES: Final = ("kernel.sem",)
MAX_VALUE: Final = 1024


def check(asked: Mapping[str, str]) -> None:
    """Raises :class:`UsageError` (``container.sysctl``) for what is not a pod's own."""
    for name, value in asked.items():
        if _NAME.fullmatch(name) is None or not (_is_network(name) or _is_ipc(name)):
            raise UsageError(
                f"the kernel parameter {name[:100]!r} is not a pod's to set",
                code="container.sysctl",
                remedy="set only net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.*",
            )
        if len(value) > MAX_VALUE or not value.isprintable():
            raise UsageError(f"the value of {name} is no kernel parameter's", code="container.sysctl")


def apply(asked: Mapping[str, str], namespaces: Namespaces, root: str = ROOT) -> None:
    """Check and write. The same again is no error."""
    check(asked)
    for name, value in asked.items():
        write = partial(_write, name, os.path.join(root, name.replace(".", "/")), value)
        if _is_network(name):
            write()
        else:
            namespaces.inside_ipc(write, f"set {name}")


def _is_network(name: str) -> bool:
    return name.replace("/", ".").startswith(_NETWORK)


def _is_ipc(name: str) -> bool:
    dotted = name.replace("/", ".")
    return dotted.startswith(_IPC) or dotted in _IPC_NAMES


def _write(name: str, path: str, value: str) -> None:
    try:
        with open(path, "w", encoding="ascii", errors="replace") as file:
            file.write(value)
    except OSError as exc:
        text = f"the kernel parameter {name} cannot be {value!r}: {exc.strerror}"
        raise UsageError(text, code="container.sysctl") from exc

# SPDX-License-Identifier: Apache-2.0
"""The pod's name and name servers as files, shown in every container unless the host brings its own."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sealpod.agent import network


def write(directory: str, resolv_conf: str, hostname: str, dns: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Write them, and the guest's own ``resolv_conf``; pairs of path here and path in containers."""
    resolv = network.resolv_conf(list(dns))
    os.makedirs(directory, mode=0o755, exist_ok=True)
    _write(resolv_conf, resolv)
    contents = {
        "resolv.conf": resolv,
        "hosts": f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n",
        "hostname": f"{hostname}\n",
    }
    for name, text in contents.items():
        _write(os.path.join(directory, name), text)
    return tuple((os.path.join(directory, name), f"/etc/{name}") for name in contents)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)

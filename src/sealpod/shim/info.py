# SPDX-License-Identifier: Apache-2.0
"""``-info``: what containerd 2 asks a shim about itself before any pod."""

from __future__ import annotations

from importlib.metadata import version

from sealpod.wire.taskapi import MESSAGES


def runtime_info(runtime: str) -> bytes:
    """The ``RuntimeInfo`` to print. No OCI features are claimed: no mount is mapped to other users."""
    released = MESSAGES.new("RuntimeVersion", version=version("sealpod"))
    return MESSAGES.new("RuntimeInfo", name=f"io.containerd.{runtime}.v2", version=released).encode()

# SPDX-License-Identifier: Apache-2.0
"""The file a container leaves its last words in, Kubernetes' ``terminationMessagePath``.

It is the container's to write, so it may be of any length and change while it is read.
"""

from __future__ import annotations

import os
import stat

from sealpod.errors import NotFoundError, OperationError
from sealpod.wire.agentapi import MESSAGE_SIZE


def read(path: str, size: int) -> bytes:
    """The last ``size`` bytes of the file. Raises NotFoundError (``container.message``) without one."""
    if not path:
        raise NotFoundError("the container has no file for its last words", code="container.message")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            wanted = min(size or MESSAGE_SIZE, MESSAGE_SIZE)
            start = max(0, status.st_size - wanted)
            return os.pread(descriptor, wanted, start) if stat.S_ISREG(status.st_mode) else b""
        finally:
            os.close(descriptor)
    except OSError as exc:
        text = f"the container's last words cannot be read: {exc.strerror}"
        raise OperationError(text, code="container.message") from exc

# SPDX-License-Identifier: Apache-2.0
"""A container's last words, Kubernetes' termination message: a file of the guest's brought back to the host.

kubelet mounts an empty file for each run of a container, ``.../pods/UID/containers/NAME/ID`` at the
container's ``terminationMessagePath``, and reads it once it learns that the container has ended. So it is
brought before that is told. Whoever owns the pod may have blocked it, like all output; then the file stays as
it is. A guest that is lost brings none: the host says why it is gone, since kubelet shows that nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from sealpod.errors import SealpodError
from sealpod.sandbox.agent import AgentClient
from sealpod.wire.agentapi import MESSAGE_SIZE
from sealpod.wire.pb import agent_pb2

USUAL: Final = "/dev/termination-log"
SECONDS: Final = 5.0  # a guest may take to answer; the container's end waits for it
_KUBELETS: Final = re.compile(r"/pods/[^/]+/containers/[^/]+/[0-9a-f]{8}")


class Place(NamedTuple):
    """Where the file is."""

    destination: str
    """In the container."""
    source: str
    """On this host."""


def find(mounts: Iterable[Mapping[str, Any]]) -> Place | None:
    """The mount that is for last words, if there is one."""
    for mount in mounts:
        destination, source = str(mount.get("destination") or ""), str(mount.get("source") or "")
        options = [str(one) for one in mount.get("options") or ()]
        meant = destination == USUAL or _KUBELETS.search(source) is not None
        if meant and "bind" in (*options, "bind" if "rbind" in options else "") and "ro" not in options:
            with contextlib.suppress(OSError):
                if stat.S_ISREG(os.lstat(source).st_mode):
                    return Place(destination, source)
    return None


async def bring(agent: AgentClient, container_id: str, source: str) -> None:
    """Write what the container left in the guest to ``source``. It is not worth failing for."""
    request = agent_pb2.ReadStreamRequest(container_id=container_id, exec_id=container_id, len=MESSAGE_SIZE)
    with contextlib.suppress(SealpodError, OSError):
        answer = await agent.call("ReadTerminationMessage", request, seconds=SECONDS)
        data = agent_pb2.ReadStreamResponse.FromString(answer).data
        if data:
            write(source, data[-MESSAGE_SIZE:])


def leave(source: str, text: str) -> None:
    """Say in the container's stead why its guest is gone. What stands there already stays."""
    with contextlib.suppress(OSError):
        if not os.lstat(source).st_size:
            write(source, text.encode(errors="replace")[:MESSAGE_SIZE])


def write(path: str, data: bytes) -> None:
    """Replace the file's contents. OSError; nothing is written to what is no regular file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, data, 0)
    finally:
        os.close(descriptor)

# SPDX-License-Identifier: Apache-2.0
"""One file, directory or symbolic link of the host copied into the guest by the agent's CopyFile."""

from __future__ import annotations

import os
import stat
from typing import Final

from sealpod.errors import UsageError
from sealpod.sandbox.agent import AgentClient
from sealpod.wire.pb import agent_pb2

CHUNK: Final = 1 << 20  # bytes of one request
MAX_FILE: Final = 16 << 20
DIRECTORY_MODE: Final = 0o755


async def copy_node(agent: AgentClient, source: str, target: str) -> None:
    """Copy ``source`` itself, a link as a link. Devices, sockets and FIFOs are left out."""
    status = os.lstat(source)
    if stat.S_ISREG(status.st_mode):
        await copy_file(agent, source, target)
    elif stat.S_ISDIR(status.st_mode):
        await agent.call("CopyFile", _request(target, status))
    elif stat.S_ISLNK(status.st_mode):
        data = os.fsencode(os.readlink(source))
        await agent.call("CopyFile", _request(target, status, size=len(data), data=data))


async def copy_file(agent: AgentClient, source: str, target: str) -> None:
    """Copy a regular file, or the one a link leads to."""
    with open(source, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_size > MAX_FILE:
            raise UsageError(
                f"{source} is larger than {MAX_FILE >> 20} MiB",
                code="shim.volume",
                remedy="a guest gets copies of small files only; put the data into the image",
            )
        data = file.read(MAX_FILE + 1)  # what it holds now counts, even if it grew since
    for offset in range(0, max(1, len(data)), CHUNK):
        part = data[offset : offset + CHUNK]
        await agent.call("CopyFile", _request(target, status, size=len(data), offset=offset, data=part))


def _request(
    target: str, status: os.stat_result, *, size: int = 0, offset: int = 0, data: bytes = b""
) -> agent_pb2.CopyFileRequest:
    return agent_pb2.CopyFileRequest(
        path=target,
        file_size=size,
        file_mode=status.st_mode,
        dir_mode=DIRECTORY_MODE,
        uid=status.st_uid,
        gid=status.st_gid,
        offset=offset,
        data=data,
    )

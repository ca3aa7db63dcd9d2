# SPDX-License-Identifier: Apache-2.0
"""Files, directories and symbolic links of the host copied into the guest by the agent's CopyFile.

A volume of kubelet's is a directory whose link ``..data`` leads to the current version; a new version is
there whole before the link is switched, here as there, and with the switch the guest removes the old version
and the links to what the new one lacks. What has left another directory cannot be removed from the guest, but
is emptied, so that a withdrawn secret does not stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from sealpod.errors import UsageError
from sealpod.sandbox.agent import AgentClient
from sealpod.wire.pb import agent_pb2

CHUNK: Final = 1 << 20  # bytes of one request
MAX_BYTES: Final = 16 << 20  # of one volume
MAX_FILES: Final = 2000
DIRECTORY_MODE: Final = 0o755
VERSION_LINK: Final = "..data"
AT_ONCE: Final = 16
ATTEMPTS: Final = 5
"""How often a directory that changes under the copy is begun anew."""
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class Tree:
    """A directory of the host (``source``) and its copy in the guest (``target``)."""

    def __init__(self, agent: AgentClient, source: str, target: str) -> None:
        self._agent = agent
        self._source = source
        self._target = target
        self._files: dict[str, os.stat_result] = {}
        self._copying = asyncio.Lock()

    async def copy(self) -> None:
        """Make the copy like the original. OSError when that cannot be read, UsageError if it is too much."""
        async with self._copying:
            for attempt in range(ATTEMPTS):
                try:
                    await self._copy()
                except FileNotFoundError:
                    if attempt == ATTEMPTS - 1 or not os.path.isdir(self._source):
                        raise
                else:
                    return

    async def _copy(self) -> None:
        nodes = [(self._source, self._target)]
        links: list[tuple[str, str]] = []
        files: dict[str, os.stat_result] = {}
        for path, status in _walk(self._source):
            target = self._target + path.removeprefix(self._source)
            (links if stat.S_ISLNK(status.st_mode) else nodes).append((path, target))
            if stat.S_ISREG(status.st_mode):
                files[target] = status
        await self._copy_all(nodes)
        # Deeper links lead into directories, the upper ones to those: upper ones are switched last.
        for _, level in groupby(sorted(links, key=_depth), key=_depth):
            await self._copy_all(list(level))
        for target in self._files.keys() - files.keys():
            if not self._is_of_old_version(target):
                await self._agent.call("CopyFile", _request(target, self._files[target]))
        self._files = files

    async def _copy_all(self, nodes: Sequence[tuple[str, str]]) -> None:
        """Copy some at once, since each is a call the guest has to answer."""
        for start in range(0, len(nodes), AT_ONCE):
            calls = [copy_node(self._agent, *node) for node in nodes[start : start + AT_ONCE]]
            for result in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result

    def _is_of_old_version(self, target: str) -> bool:
        """Whether the guest has removed the file with the version it belonged to."""
        name = target.removeprefix(f"{self._target}/").partition("/")[0]
        with contextlib.suppress(OSError):
            return name.startswith("..") and name != os.readlink(os.path.join(self._source, VERSION_LINK))
        return False


def _depth(link: tuple[str, str]) -> int:
    return -link[0].count("/")


async def copy_node(agent: AgentClient, source: str, target: str) -> None:
    """Copy ``source`` itself, a link as a link. Devices, sockets and FIFOs are left out."""
    status = os.lstat(source)
    if stat.S_ISREG(status.st_mode):
        await copy_file(agent, source, target, follow=False)
    elif stat.S_ISDIR(status.st_mode):
        await agent.call("CopyFile", _request(target, status))
    elif stat.S_ISLNK(status.st_mode):
        data = os.fsencode(os.readlink(source))
        await agent.call("CopyFile", _request(target, status, size=len(data), data=data))


async def copy_file(agent: AgentClient, source: str, target: str, *, follow: bool = True) -> None:
    """Copy a regular file, or the one a link leads to. FileNotFoundError when it changes meanwhile."""
    descriptor = os.open(source, _FLAGS if follow else _FLAGS | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _changed(source)
        size = status.st_size
        if size > MAX_BYTES:
            raise _too_much(source)
        for offset in range(0, max(1, size), CHUNK):
            part = os.pread(descriptor, min(CHUNK, size - offset), offset)
            if len(part) != min(CHUNK, size - offset):
                raise _changed(source)
            await agent.call("CopyFile", _request(target, status, size=size, offset=offset, data=part))
    finally:
        os.close(descriptor)


def _walk(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below ``root``, directories before what is in them. UsageError when it is too much."""
    total = count = 0
    for directory, names, files in os.walk(root):
        for name in sorted((*names, *files)):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            count += 1
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
            if count > MAX_FILES or total > MAX_BYTES:
                raise _too_much(root)
            yield path, status


def _changed(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "it changed while it was read", path)


def _too_much(path: str) -> UsageError:
    return UsageError(
        f"{path} holds more than {MAX_FILES} files or {MAX_BYTES >> 20} MiB",
        code="shim.volume",
        remedy="a guest gets copies of small volumes only; put the data into the image",
    )


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

# SPDX-License-Identifier: Apache-2.0
"""What to run: the image's configuration, the caller's overrides, and the root file system's users.

Commands follow Kubernetes: ``command`` replaces the entrypoint and drops the image's arguments, ``args``
replaces the arguments. Users follow Docker: ``name``, ``uid``, ``name:group``, ``uid:gid``; a number needs no
line in ``/etc/passwd``. The two files are the image's own and are read inside its root, where a link cannot
point out of it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from sealpod.errors import DecodeError, NotFoundError, UsageError
from sealpod.image.rootdir import RootDirectory, split
from sealpod.oci.config import ImageConfig
from sealpod.record import Record

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # as containerd sets it
MAX_FILE: Final = 4 * 1024 * 1024  # bytes of /etc/passwd or /etc/group
_MAX_ID: Final = (1 << 32) - 2  # -1 means "no change" to setuid(2)
_LINKS: Final = 8  # symbolic links from /etc/passwd to where it really is


class ResolvedUser(Record):
    """Who the process is."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    home: str = "/"


class ProcessSpec(Record):
    """What to run, in the terms of the OCI runtime specification's ``process``."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: ResolvedUser


def resolve_process(
    config: ImageConfig,
    rootfs: str,
    *,
    command: Sequence[str] = (),
    args: Sequence[str] = (),
    env: Sequence[str] = (),
    cwd: str = "",
    user: str = "",
) -> ProcessSpec:
    """The process of an image, with the caller's non-empty overrides.

    ``env`` entries (``NAME=value``) override the image's by name. UsageError (``image.no-command``) if there
    is nothing to run, NotFoundError (``image.user``) for an unknown user or group name.
    """
    directory = cwd or config.working_dir or "/"
    who = resolve_user(user or config.user, rootfs)
    return ProcessSpec(
        args=_arguments(config, tuple(command), tuple(args)),
        env=_environment((f"PATH={DEFAULT_PATH}", f"HOME={who.home}"), config.env, tuple(env)),
        cwd=directory if directory.startswith("/") else f"/{directory}",
        user=who,
    )


def resolve_user(user: str, rootfs: str) -> ResolvedUser:
    """Who ``user`` (``""``: root) is in the root file system at ``rootfs``."""
    name, colon, group = user.partition(":")
    accounts = list(_lines(rootfs, b"etc/passwd", 7))
    groups = list(_lines(rootfs, b"etc/group", 4))
    login, uid, gid, home = _account(name or "0", accounts)
    if colon and group:
        # A group asked for by name or number replaces the account's groups.
        return ResolvedUser(uid, _group(group, groups), (), home)
    extra = tuple(
        sorted({_id(fields[2]) for fields in groups if login and login in fields[3].split(",")} - {gid})
    )
    return ResolvedUser(uid, gid, extra, home)


def _arguments(config: ImageConfig, command: tuple[str, ...], args: tuple[str, ...]) -> tuple[str, ...]:
    result = command + args if command else config.entrypoint + (args or config.cmd)
    if not result:
        raise UsageError(
            "the image names no command to run",
            code="image.no-command",
            remedy="name one after --, or give the image an entrypoint",
        )
    return result


def _environment(*layers: tuple[str, ...]) -> tuple[str, ...]:
    merged: dict[str, str] = {}
    for layer in layers:
        for assignment in layer:
            name, equals, value = assignment.partition("=")
            if name and equals:
                merged[name] = value
    return tuple(f"{name}={value}" for name, value in merged.items())


def _account(name: str, accounts: list[list[str]]) -> tuple[str, int, int, str]:
    """Login name (empty if there is none), uid, gid and home."""
    for fields in accounts:
        if fields[0] == name:
            return name, _id(fields[2]), _id(fields[3]), fields[5] or "/"
    if not name.isdecimal():
        raise NotFoundError(
            f"the image has no user {name[:60]!r} in /etc/passwd",
            code="image.user",
            remedy="give the user as a number, or fix the image",
        )
    uid = _id(name)
    for fields in accounts:
        if _id(fields[2]) == uid:
            return fields[0], uid, _id(fields[3]), fields[5] or "/"
    return "", uid, 0, "/"


def _group(name: str, groups: list[list[str]]) -> int:
    for fields in groups:
        if fields[0] == name:
            return _id(fields[2])
    if not name.isdecimal():
        raise NotFoundError(
            f"the image has no group {name[:60]!r} in /etc/group",
            code="image.user",
            remedy="give the group as a number, or fix the image",
        )
    return _id(name)


def _id(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= _MAX_ID):
        raise DecodeError(f"not a user or group number: {text[:60]!r}", code="image.user")
    return int(text)


def _lines(rootfs: str, path: bytes, count: int) -> Iterator[list[str]]:
    """The lines of ``path`` with ``count`` colon-separated fields and a number; none without a file."""
    for line in _read(rootfs, path).decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if len(fields) == count and fields[0] and fields[2].isdecimal():
            yield fields


def _read(rootfs: str, path: bytes) -> bytes:
    with RootDirectory(rootfs) as root:
        try:
            descriptor = _open(root, path)
        except (FileNotFoundError, NotADirectoryError):
            return b""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise DecodeError(f"/{path.decode()} of the image is larger than {MAX_FILE} bytes", code="image.user")
    return data


def _open(root: RootDirectory, path: bytes) -> int:
    """Open a file inside the root, following links there (``/etc/passwd`` is one in some images)."""
    *front, name = split(path)
    for _ in range(_LINKS):
        parent = root.directory(tuple(front))
        try:
            # O_NONBLOCK: a fifo in its place must not hold the agent up.
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        target = os.readlink(name, dir_fd=parent)
        base = [] if target.startswith(b"/") else front
        *front, name = _normal([*base, *target.split(b"/")])
    raise FileNotFoundError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))


def _normal(parts: list[bytes]) -> list[bytes]:
    """Lexical ``..`` is wrong behind a linked directory, but stays inside the root, which is what matters."""
    result: list[bytes] = []
    for part in parts:
        if part == b"..":
            del result[-1:]
        elif part not in (b"", b"."):
            result.append(part)
    return result or [b"."]

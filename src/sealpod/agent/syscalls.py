# SPDX-License-Identifier: Apache-2.0
"""System calls the standard library of Python 3.11 does not have: mount, namespaces, openat2, modules.

``ctypes`` is imported at the first call, since importing it is a noticeable part of the agent's start.
All raise :class:`OSError` with the call's errno.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ctypes

# mount(2) flags, linux/mount.h
MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_BIND: Final = 0x1000
MS_PRIVATE: Final = 0x40000
MNT_DETACH: Final = 2

# reboot(2) commands, linux/reboot.h
POWER_OFF: Final = 0x4321FEDC
RESTART: Final = 0x01234567

PR_SET_CHILD_SUBREAPER: Final = 36

# setrlimit(2), asm-generic/resource.h
RLIMIT_NPROC: Final = 6
RLIMIT_NOFILE: Final = 7
UNLIMITED: Final = (1 << 64) - 1

# unshare(2) and setns(2), linux/sched.h
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000

# openat2(2), linux/openat2.h and asm/unistd_64.h
OPENAT2: Final = 437
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
FINIT_MODULE: Final = 313

# open_tree(2), move_mount(2), mount_setattr(2), linux/mount.h
OPEN_TREE: Final = 428
MOVE_MOUNT: Final = 429
MOUNT_SETATTR: Final = 442
OPEN_TREE_CLONE: Final = 0x1
MOVE_FROM_EMPTY_PATH: Final = 0x04
MOVE_TO_EMPTY_PATH: Final = 0x40
AT_EMPTY_PATH: Final = 0x1000
AT_FDCWD: Final = -100

_libc: ctypes.CDLL | None = None


def _call(name: str, *arguments: object) -> int:
    global _libc
    import ctypes

    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2). ``data`` holds the file system's own options; the kernel takes 4095 bytes."""
    import ctypes

    _call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _call("umount2", os.fsencode(target), flags)


def reboot(command: int) -> None:
    """reboot(2). Does not return when it works."""
    import ctypes

    _call("reboot", ctypes.c_int(command if command < 1 << 31 else command - (1 << 32)))


def become_subreaper() -> None:
    """Orphaned descendants of this process become its children, as they do for PID 1."""
    _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def set_limit(kind: int, most: int) -> None:
    """setrlimit(2): soft and hard limit of this process, which its children begin with."""
    import ctypes

    _call("setrlimit", kind, (ctypes.c_ulong * 2)(most, most))


def bind(source: int, target: int | str, flags: int = 0) -> None:
    """Mount what the descriptor ``source`` is at ``target``, a descriptor or a path; ``flags`` are MS_*.

    Descriptors, because nobody can put a link in the place of an open directory; and the mount has its flags
    before anybody can see it. MOUNT_ATTR_* has the values of MS_* for the four flags of a mount.
    """
    import ctypes

    empty, attributes = ctypes.c_char_p(b""), (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    made = ctypes.c_uint(OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH)
    tree = _call("syscall", ctypes.c_long(OPEN_TREE), ctypes.c_int(source), empty, made)
    try:
        here = ctypes.c_int(tree)
        if flags:
            options = (ctypes.c_uint(AT_EMPTY_PATH), attributes, ctypes.c_size_t(ctypes.sizeof(attributes)))
            _call("syscall", ctypes.c_long(MOUNT_SETATTR), here, empty, *options)
        directory, path = (target, "") if isinstance(target, int) else (AT_FDCWD, target)
        how = MOVE_FROM_EMPTY_PATH | (0 if path else MOVE_TO_EMPTY_PATH)
        where = (ctypes.c_int(directory), os.fsencode(path), ctypes.c_uint(how))
        _call("syscall", ctypes.c_long(MOVE_MOUNT), here, empty, *where)
    finally:
        os.close(tree)


def open_below(directory: int, path: str, flags: int, *, links: bool) -> int:
    """openat2(2): open ``path`` below ``directory`` and nowhere else; links that lead out are an error.

    Without ``links`` any symbolic link on the way is one.
    """
    import ctypes

    resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | (0 if links else RESOLVE_NO_SYMLINKS)
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, resolve)
    number, size = ctypes.c_long(OPENAT2), ctypes.c_size_t(ctypes.sizeof(how))
    return _call("syscall", number, ctypes.c_int(directory), os.fsencode(path), how, size)


def unshare(flags: int) -> None:
    """unshare(2), for the calling thread."""
    _call("unshare", flags)


def setns(descriptor: int, kind: int) -> None:
    """setns(2), for the calling thread."""
    _call("setns", descriptor, kind)


def load_module(descriptor: int, parameters: str) -> None:
    """finit_module(2)."""
    import ctypes

    _call("syscall", ctypes.c_long(FINIT_MODULE), ctypes.c_int(descriptor), parameters.encode(), 0)

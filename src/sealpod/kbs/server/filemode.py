# SPDX-License-Identifier: Apache-2.0
"""Who else may use a file: its mode, and its access control list where it has one.

With a list, the group's bits of the mode are the list's mask and not the group's rights. systemd hands
credentials to a service so: of root, mode 0440, and a list that lets in the service's user and nobody else.
Form: ``linux/posix_acl_xattr.h``, a version and entries, little-endian; the kernel has put the ids into this
process's user namespace.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import Final

_XATTR: Final = "system.posix_acl_access"
_HEADER: Final = struct.Struct("<I")
_VERSION: Final = 2
_ENTRY: Final = struct.Struct("<HHI")
_USER, _GROUP_OBJ, _GROUP, _MASK = 0x02, 0x04, 0x08, 0x10
_RIGHTS: Final = 0o7


def effective_mode(descriptor: int) -> int:
    """The permission bits of an open file, as they would be without a list: the group's are what its group
    may do; whom the list names beside, but for this process's user, counts among everybody else."""
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    try:
        raw = os.getxattr(descriptor, _XATTR)
    except OSError:
        return mode  # None, or a file system without; then the mode is all there is.
    if (len(raw) - _HEADER.size) % _ENTRY.size or _HEADER.unpack_from(raw)[0] != _VERSION:
        return mode
    group, named = _granted(raw[_HEADER.size :], own=os.geteuid())
    return mode & ~0o070 | group << 3 | named


def _granted(entries: bytes, *, own: int) -> tuple[int, int]:
    """What the file's group may do, and what users but ``own`` and groups that are named may."""
    mask, group, named = _RIGHTS, 0, 0
    for tag, rights, who in _ENTRY.iter_unpack(entries):
        if tag == _MASK:
            mask = rights
        elif tag == _GROUP_OBJ:
            group = rights
        elif tag == _GROUP or (tag == _USER and who != own):
            named |= rights
    return group & mask & _RIGHTS, named & mask & _RIGHTS

# SPDX-License-Identifier: Apache-2.0
"""Owner, mode, attributes and times of what a layer unpacks, in the order in which none undoes another.

chown clears setuid bits and ``security.capability``, so it comes first; times come last.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from sealpod.errors import AccessError, DecodeError, OperationError, SealpodError
from sealpod.image import tarheader
from sealpod.image.rootdir import show
from sealpod.image.tarheader import Entry
from sealpod.record import Record

_FORBIDDEN_XATTRS: Final = (b"trusted.overlay.", b"user.overlay.")
# Kernels without these on tmpfs (before 6.6) and images labelled on SELinux hosts are both common.
_OPTIONAL_XATTRS: Final = (b"user.", b"security.selinux")


class Metadata(Record):
    """What a member says of itself: permission bits, owners, nanoseconds since 1970, attributes."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]


class UnpackReport:
    """What was unpacked, and what could not be kept."""

    def __init__(self) -> None:
        self.entries = 0
        self.skipped_xattrs = 0
        """``user.*`` and SELinux attributes the file system does not take."""


def metadata_of(entry: Entry) -> Metadata:
    """The metadata of a member of the archive."""
    return Metadata(entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.xattrs)


def finish(descriptor: int, metadata: Metadata, report: UnpackReport) -> None:
    """Set the metadata of an open file or directory.

    OSError as the system says; DecodeError (``image.tar-xattr``) for an attribute no image may bring.
    """
    os.fchown(descriptor, metadata.uid, metadata.gid)
    _set_xattrs(descriptor, metadata.xattrs, report, follow=True)
    os.fchmod(descriptor, metadata.mode)
    os.utime(descriptor, ns=(metadata.mtime_ns, metadata.mtime_ns))


def finish_unopened(parent: int, name: bytes, entry: Entry, report: UnpackReport) -> None:
    """The same for links and nodes, which cannot be opened (a fifo would block, a device would act)."""
    os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    if entry.xattrs:
        _set_xattrs(b"/proc/self/fd/%d/%s" % (parent, name), entry.xattrs, report, follow=False)
    if entry.type != tarheader.SYMLINK:
        os.chmod(name, entry.mode, dir_fd=parent)
    os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)


def _set_xattrs(
    where: int | bytes, xattrs: dict[bytes, bytes], report: UnpackReport, *, follow: bool
) -> None:
    for name, value in xattrs.items():
        if name.startswith(_FORBIDDEN_XATTRS) or b"\0" in name:
            raise DecodeError(f"the layer sets the attribute {show(name)}", code="image.tar-xattr")
        try:
            if follow:
                os.setxattr(where, name, value)
            else:
                os.setxattr(where, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM) or not name.startswith(_OPTIONAL_XATTRS):
                raise
            report.skipped_xattrs += 1


def explained(path: bytes, error: OSError) -> SealpodError:
    """An error of the operating system as one of ours: whose fault it is depends on its number."""
    text = f"unpacking {show(path)}: {os.strerror(error.errno or 0)}"
    if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        remedy = "unpack as root, on a file system that takes device nodes and trusted.* attributes"
        return AccessError(text, code="image.unpack-permission", remedy=remedy)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
        remedy = "give the guest more memory (--memory), or use a smaller image"
        return OperationError(text, code="image.store-full", remedy=remedy)
    if error.errno in (
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.EMLINK,
    ):
        return DecodeError(text, code="image.tar-conflict")
    if error.errno == errno.ENOTSUP:
        remedy = "use a file system with extended attributes for the image store"
        return OperationError(text, code="image.unpack-xattr", remedy=remedy)
    return OperationError(text, code="image.unpack")

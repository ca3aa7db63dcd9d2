# SPDX-License-Identifier: Apache-2.0
"""Where built and fetched files live between runs (XDG Base Directory Specification 0.8).

::

    CACHE/
      guest/       vmlinuz, initrd.img, guest.json: what `sealpod guest build` made
      firmware/    OVMF.amdsev.fd, when the system has none
      debs/KEY/    fetched Debian packages and their index
      wheels/KEY/  fetched Python wheels
      base/KEY/    the guest's root without sealpod's own code, and its squashfs
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from sealpod.errors import AccessError

PARTS: Final = ("debs", "wheels", "base")
KEPT_BASES: Final = 3
"""Base systems kept, the latest used ones: enough to go back and forth between versions; each has 60 MiB."""


def cache_directory(environ: Mapping[str, str] | None = None) -> str:
    """``$SEALPOD_CACHE``, else ``$XDG_CACHE_HOME/sealpod``, else ``~/.cache/sealpod``; not created here."""
    variables = os.environ if environ is None else environ
    if variables.get("SEALPOD_CACHE"):
        return os.path.abspath(variables["SEALPOD_CACHE"])
    base = variables.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the specification has relative paths ignored
        base = os.path.join(variables.get("HOME") or os.path.expanduser("~"), ".cache")
    return os.path.join(base, "sealpod")


def image_directory(cache: str | None = None) -> str:
    """The directory a guest image is built into unless another one is named."""
    return os.path.join(cache or cache_directory(), "guest")


def make_directory(path: str) -> str:
    """Create ``path`` with its parents; raises :class:`AccessError` naming it when that is forbidden."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise AccessError(
            f"cannot create {path}: {error.strerror}",
            code="cache.directory",
            remedy="set SEALPOD_CACHE to a directory you may write to",
        ) from error
    return path


@contextmanager
def locked(directory: str) -> Iterator[None]:
    """Hold the directory's lock, waiting for another build to end; the kernel frees it if we die."""
    make_directory(directory)
    descriptor = os.open(os.path.join(directory, ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def completed(path: str) -> Iterator[str]:
    """A new directory to fill that becomes ``path`` when the block ends well, and vanishes when it does
    not."""
    parent = make_directory(os.path.dirname(path))
    work = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}.", dir=parent)
    try:
        os.chmod(work, 0o755)  # noqa: S103 - mkdtemp makes it private, its content is not
        yield work
        if os.path.isdir(path):
            shutil.rmtree(path)
        os.rename(work, path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def clear_leftovers(cache: str) -> None:
    """Remove what interrupted builds left half-made. Only under the cache's lock."""
    for part in PARTS:
        place = os.path.join(cache, part)
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if name.startswith("."):
                shutil.rmtree(os.path.join(place, name), ignore_errors=True)


def keep_latest(directory: str, used: str, count: int = KEPT_BASES) -> None:
    """Mark the entry ``used`` of ``directory`` as the latest and remove all but the latest ``count``."""
    os.utime(os.path.join(directory, used))
    entries = [os.path.join(directory, name) for name in os.listdir(directory)]
    for path in sorted(entries, key=os.path.getmtime, reverse=True)[count:]:
        with contextlib.suppress(OSError):
            shutil.rmtree(path)

# SPDX-License-Identifier: Apache-2.0
"""The containerd programs tests run against: Debian's installed one, and 1.7 of the next release.

The second is fetched once into the cache, with apt beside the system's apt, and runs from there; it needs a C
library the current release has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from sealpod.errors import SealpodError
from sealpod.guestimage import debian
from sealpod.guestimage.cache import cache_directory, completed

SUITE, PACKAGE = "trixie", "containerd"


@dataclass(frozen=True)
class Containerd:
    """A version: its programs, or why they cannot be used. ``wanted`` is what the version begins with."""

    wanted: str
    directory: str = ""
    missing: str = ""

    @property
    def program(self) -> str:
        """The daemon."""
        return os.path.join(self.directory, "containerd")

    @property
    def ctr(self) -> str:
        """Its command-line client."""
        return os.path.join(self.directory, "ctr")

    @property
    def path(self) -> str:
        """``PATH`` with its shims first."""
        return f"{self.directory}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def find_containerd_versions() -> tuple[Containerd, ...]:
    """1.6 as installed and 1.7 as fetched; both always stand there, unusable ones with the reason."""
    return installed("1.6"), fetched("1.7")


def installed(wanted: str) -> Containerd:
    """The system's, if its version begins with ``wanted``."""
    program = shutil.which("containerd")
    if program is None:
        return Containerd(wanted, missing="containerd is not installed")
    return _checked(wanted, os.path.dirname(program))


def fetched(wanted: str) -> Containerd:
    """The next release's, from the cache or else from the machine's Debian mirror."""
    try:
        return _checked(wanted, _unpacked())
    except (SealpodError, OSError) as error:
        return Containerd(wanted, missing=f"containerd {wanted} cannot be fetched: {error}")


def _unpacked() -> str:
    cache = cache_directory()
    package, *_ = debian.fetch(debian.Request(SUITE, (PACKAGE,)), cache, debian.system_mirror)
    directory = os.path.join(cache, "containerd", package.sha256[:16])
    if not os.path.isdir(directory):
        with completed(directory) as work:
            debian.unpack([package], work)
    return os.path.join(directory, "usr/bin")


def _checked(wanted: str, directory: str) -> Containerd:
    command = [os.path.join(directory, "containerd"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    found = re.search(r" (\d+\.\d+\.\d+)", done.stdout)
    if done.returncode != 0 or found is None:
        return Containerd(
            wanted, missing=f"containerd {wanted} does not run here: {done.stderr.strip()[:200]}"
        )
    if not found[1].startswith(f"{wanted}."):
        return Containerd(wanted, missing=f"containerd is {found[1]}, not {wanted}")
    return Containerd(wanted, directory)

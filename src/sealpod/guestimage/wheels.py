# SPDX-License-Identifier: Apache-2.0
"""Fetch the pinned wheels for the guest's interpreter with this machine's pip, and unpack them.

pip chooses the index and checks every hash; the pins are ``data/requirements.txt`` (pip's requirements
format, hash-checking mode). A wheel is a zip file laid out as it is to be installed (PEP 427).
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sealpod.errors import DecodeError, OperationError
from sealpod.guestimage import tools
from sealpod.guestimage.cache import completed
from sealpod.guestimage.manifest import Input, file_sha256

REQUIREMENTS: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "requirements.txt")
PLATFORMS: Final = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64")
"""glibc up to 2.28; the guest has 2.36."""
MAX_UNPACKED: Final = 64 << 20  # bytes per wheel; the largest has 15 MiB

_PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[\w.]+)")
_HASH = re.compile(r"--hash=sha256:(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Pin:
    """One pinned wheel; ``sha256`` are the accepted hashes."""

    name: str
    version: str
    sha256: tuple[str, ...]

    def text(self) -> str:
        """The line of a requirements file."""
        return " ".join(
            (f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in self.sha256))
        )


@dataclass(frozen=True, slots=True)
class Wheel:
    """A fetched wheel."""

    pin: Pin
    path: str

    def as_input(self) -> Input:
        """The manifest's line for it."""
        return Input("wheel", self.pin.name, self.pin.version, file_sha256(self.path))


def parse_requirements(text: str) -> tuple[Pin, ...]:
    """The pins of a requirements file; raises :class:`DecodeError` for anything that is not pinned with a
    hash."""
    pins = []
    for line in text.replace("\\\n", " ").splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        pin = _PIN.fullmatch(words[0])
        hashes = [_HASH.fullmatch(word) for word in words[1:]]
        if pin is None or not hashes or not all(hashes):
            raise DecodeError(f"not a pinned requirement with hashes: {line.strip()[:80]!r}")
        pins.append(Pin(pin["name"], pin["version"], tuple(match["digest"] for match in hashes if match)))
    return tuple(pins)


def pinned(names: Iterable[str]) -> tuple[Pin, ...]:
    """The pins named, in order of their names."""
    with open(REQUIREMENTS, encoding="utf-8") as stream:
        by_name = {pin.name: pin for pin in parse_requirements(stream.read())}
    missing = sorted(set(names) - by_name.keys())
    if missing:
        raise OperationError(f"no pinned wheel for {', '.join(missing)}", code="guest.wheel")
    return tuple(by_name[name] for name in sorted(set(names)))


def fetch(pins: tuple[Pin, ...], cache: str) -> tuple[Wheel, ...]:
    """The wheels of ``pins``, from the cache or else with pip; raises what :func:`tools.run` raises."""
    text = "".join(pin.text() + "\n" for pin in pins)
    directory = os.path.join(cache, "wheels", hashlib.sha256(text.encode()).hexdigest()[:16])
    if not os.path.isdir(directory):
        with completed(directory) as work:
            _download(text, work)
    return tuple(Wheel(pin, _wheel_file(pin, directory)) for pin in pins)


def unpack(wheels: Iterable[Wheel], directory: str) -> None:
    """Extract the wheels into ``directory``; pip has checked their hashes."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel.path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_UNPACKED:
                raise DecodeError(f"{os.path.basename(wheel.path)} unpacks to more than {MAX_UNPACKED} bytes")
            archive.extractall(directory)


def _download(requirements: str, directory: str) -> None:
    path = os.path.join(directory, "requirements.txt")
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(requirements)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += [
        "--require-hashes",
        "--only-binary",
        ":all:",
        "--python-version",
        "3.11",
        "--implementation",
        "cp",
    ]
    for abi in ("cp311", "abi3", "none"):
        command += ["--abi", abi]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    tools.run([*command, "--requirement", path, "--dest", directory], package="python3-pip")


def _wheel_file(pin: Pin, directory: str) -> str:
    for path in glob.glob(os.path.join(directory, "*.whl")):
        if file_sha256(path) in pin.sha256:
            return path
    raise OperationError(
        f"the wheel of {pin.name} is missing from {directory} or damaged",
        code="cache.damaged",
        remedy="remove that directory and build again",
    )

# SPDX-License-Identifier: Apache-2.0
"""Find the firmware that checks kernel, initrd and command line: OVMF's AmdSev build.

Places, in order: QEMU's firmware descriptors (QEMU's docs/interop/firmware.json), well-known paths of
distributions, the cache that ``sealpod guest build`` fills. OVMF's ordinary builds also carry the feature
``amd-sev`` but no table for the hashes, so a candidate is taken only if its footer announces one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Final

from sealpod.errors import DecodeError, NotFoundError
from sealpod.measure.ovmf import Ovmf

DESCRIPTOR_DIRECTORIES: Final = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")
"""System-wide ones, more specific first; a file of the same name in an earlier one hides the later's."""

WELL_KNOWN_PATHS: Final = (
    "/usr/share/ovmf/OVMF.amdsev.fd",
    "/usr/share/OVMF/OVMF.amdsev.fd",
    "/usr/share/edk2/ovmf/OVMF.amdsev.fd",
    "/usr/share/edk2/x64/OVMF.amdsev.fd",
)
FILE_NAME: Final = "OVMF.amdsev.fd"
MAX_DESCRIPTOR_SIZE: Final = 64 << 10  # bytes; QEMU's own have less than 1 KiB
MAX_FIRMWARE_SIZE: Final = 16 << 20  # bytes; OVMF images have 2 or 4 MiB


def find(
    cache: str,
    descriptor_directories: Iterable[str] = DESCRIPTOR_DIRECTORIES,
    well_known: Iterable[str] = WELL_KNOWN_PATHS,
) -> str:
    """Path of the first usable firmware; raises :class:`NotFoundError` (``guest.firmware``)."""
    candidates = (*described(descriptor_directories), *well_known, cached_path(cache))
    for path in candidates:
        if is_usable(path):
            return path
    raise NotFoundError(
        "no OVMF firmware of the AmdSev build was found",
        code="guest.firmware",
        remedy="run `sealpod guest build`, which fetches one",
    )


def cached_path(cache: str) -> str:
    """Where the fetched firmware is kept."""
    return os.path.join(cache, "firmware", FILE_NAME)


def described(directories: Iterable[str]) -> Iterator[str]:
    """Firmware files of the descriptors that fit, in QEMU's order (by file name over all directories)."""
    by_name: dict[str, str] = {}
    for directory in directories:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        for name in names:
            if name.endswith(".json"):
                by_name.setdefault(name, os.path.join(directory, name))
    for _, path in sorted(by_name.items()):
        try:
            with open(path, "rb") as stream:
                filename = parse_descriptor(stream.read(MAX_DESCRIPTOR_SIZE))
        except (OSError, DecodeError):
            continue  # one broken file, or an empty one that hides another, must not hide the rest
        if filename is not None:
            yield filename


def parse_descriptor(data: bytes) -> str | None:
    """The image's path if the descriptor is for a stateless x86-64 SEV firmware, else None.

    Raises :class:`DecodeError` for what is not a firmware descriptor.
    """
    try:
        document = json.loads(data)
        features = document["features"]
        architectures = [target["architecture"] for target in document["targets"]]
        mapping = document["mapping"]
        if "amd-sev" not in features or "x86_64" not in architectures:
            return None
        if mapping["device"] == "memory":
            return str(mapping["filename"])
        # A variable store is neither measured nor wanted: only a stateless flash is the whole firmware.
        if mapping["device"] == "flash" and mapping.get("mode") == "stateless":
            return str(mapping["executable"]["filename"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DecodeError(f"not a firmware descriptor ({type(error).__name__})") from error
    return None


def is_usable(path: str) -> bool:
    """Whether ``path`` holds a firmware with room for kernel hashes and a launch secret."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_FIRMWARE_SIZE + 1)
        if len(data) > MAX_FIRMWARE_SIZE:
            return False
        image = Ovmf.parse(data)
    except (OSError, DecodeError):
        return False
    return image.hash_table is not None and image.secret_block is not None

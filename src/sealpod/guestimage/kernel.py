# SPDX-License-Identifier: Apache-2.0
"""Take the kernel image and the modules /init loads out of the unpacked kernel package.

A module's appended signature is dropped (Linux, Documentation/admin-guide/module-signing.rst): checking six
of them takes an emulated processor half a second, and says nothing that the measurement of the initrd does
not. The kernel notes it by the taint flag E.
"""

from __future__ import annotations

import lzma
import os
import struct
from dataclasses import dataclass
from typing import Final

from sealpod.errors import DecodeError, NotFoundError

MAX_MODULE_SIZE: Final = 32 << 20  # bytes; the largest wanted has 0.5 MiB
COMPRESSED: Final = ".xz"
SIGNATURE_MAGIC: Final = b"~Module signature appended~\n"
SIGNATURE_TRAILER: Final = struct.Struct(">BBBBB3xI")
"""``struct module_signature``: algorithm, hash, kind, signer's and key's lengths (all 0 for PKCS #7),
length."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """``image``: path of the bzImage; ``modules``: name and content, in loading order.

    ``later`` are those that are not loaded by /init.
    """

    release: str
    image: str
    modules: tuple[tuple[str, bytes], ...]
    later: tuple[tuple[str, bytes], ...] = ()


def read(package: str, wanted: tuple[str, ...], later: tuple[str, ...] = ()) -> Kernel:
    """The kernel in the directory a kernel package was unpacked to, with ``wanted`` modules and their needs,
    and those of ``later`` apart from them.

    Raises :class:`NotFoundError` (``guest.kernel``) when kernel or module is not there.
    """
    place = os.path.join(package, "lib/modules")
    releases = sorted(os.listdir(place)) if os.path.isdir(place) else []
    if len(releases) != 1:
        raise NotFoundError(f"{package} holds {len(releases)} kernels, not one", code="guest.kernel")
    image = os.path.join(package, "boot", f"vmlinuz-{releases[0]}")
    if not os.path.isfile(image):
        raise NotFoundError(f"{package} lacks the kernel image of {releases[0]}", code="guest.kernel")
    paths = find_modules(os.path.join(place, releases[0]))
    modules = _in_order(paths, wanted)
    more = _in_order(paths, (*wanted, *later))[len(modules) :]
    return Kernel(releases[0], image, tuple(modules), tuple(more))


def find_modules(directory: str) -> dict[str, str]:
    """Path by module name, as ``modinfo`` would name it."""
    return {
        name.partition(".ko")[0].replace("-", "_"): os.path.join(place, name)
        for place, _, names in os.walk(directory)
        for name in names
        if ".ko" in name
    }


def dependencies(module: bytes) -> tuple[str, ...]:
    """Names a module says it needs: the ``depends=`` entry of its .modinfo section (NUL-terminated
    strings)."""
    start = module.find(b"\0depends=")
    if start < 0:
        return ()
    start += len(b"\0depends=")
    end = module.find(b"\0", start)
    names = module[start:end].decode("ascii", "replace")
    return tuple(name for name in names.split(",") if name)


def without_signature(module: bytes) -> bytes:
    """The module as it was before it was signed; raises :class:`DecodeError` when the signature does not
    fit."""
    if not module.endswith(SIGNATURE_MAGIC):
        return module
    end = len(module) - len(SIGNATURE_MAGIC) - SIGNATURE_TRAILER.size
    if end < 0:
        raise DecodeError("a kernel module's signature ends early")
    *_, size = SIGNATURE_TRAILER.unpack_from(module, end)
    if size > end:
        raise DecodeError("a kernel module's signature is longer than the module")
    return module[: end - size]


def _in_order(paths: dict[str, str], wanted: tuple[str, ...]) -> list[tuple[str, bytes]]:
    ordered: dict[str, bytes] = {}
    pending: set[str] = set()

    def add(name: str) -> None:
        if name in ordered:
            return
        if name not in paths or name in pending:
            raise NotFoundError(f"the kernel package has no usable module {name}", code="guest.kernel")
        pending.add(name)
        content = without_signature(_content(paths[name]))
        for needed in dependencies(content):
            add(needed.replace("-", "_"))
        ordered[name] = content

    for name in wanted:
        add(name)
    return list(ordered.items())


def _content(path: str) -> bytes:
    # Unpacked here: the guest would spend longer on it, and squeezing twice gains nothing.
    with open(path, "rb") as stream:
        data = stream.read(MAX_MODULE_SIZE + 1)
    if path.endswith(COMPRESSED):
        try:
            data = lzma.LZMADecompressor(memlimit=256 << 20).decompress(data, MAX_MODULE_SIZE + 1)
        except lzma.LZMAError as error:
            raise DecodeError(f"{os.path.basename(path)} is not a valid xz stream") from error
    if len(data) > MAX_MODULE_SIZE:
        raise DecodeError(f"{os.path.basename(path)} is larger than {MAX_MODULE_SIZE} bytes")
    return data

# SPDX-License-Identifier: Apache-2.0
"""The guest's root without sealpod's own code: packages and wheels unpacked, trimmed, compiled, squashed.

It changes rarely and takes the longest, so it is kept in the cache under a key of all that goes into it;
sealpod's own code is laid over it by the initrd (:mod:`sealpod.guestimage.initrd`).
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from typing import Final

from sealpod.guestimage import debian, elf, interpreter, recipe, squashfs, wheels
from sealpod.guestimage.cache import completed, keep_latest
from sealpod.guestimage.manifest import Input, file_sha256

TREE: Final = "tree"
IMAGE: Final = "root.squashfs"
SITE_PACKAGES: Final = "usr/lib/python3/dist-packages"
"""Where Debian's interpreter looks for packages even when isolated (-I)."""

STDLIB: Final = f"usr/lib/{recipe.PYTHON}"
DROPPED_FILE: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "dropped.txt")
CERTIFICATES: Final = "etc/ssl/certs/ca-certificates.crt"
FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/hostname": "sealpod\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/resolv.conf": "",
}
DIRECTORIES: Final = ("dev", "proc", "root", "run", "sys", "tmp", "var/lib", "var/tmp", "usr/sbin")
LINKS: Final = {
    "usr/lib/ssl/cert.pem": "/etc/ssl/certs/ca-certificates.crt",  # OpenSSL's default place
    "usr/bin/python3": recipe.PYTHON,
    "var/run": "/run",
}

Progress = Callable[[str, str], None]
"""Called with a step's name and a sentence about it."""


def base(
    packages: tuple[debian.Package, ...],
    fetched: tuple[wheels.Wheel, ...],
    cache: str,
    progress: Progress,
) -> str:
    """The directory in the cache with ``tree`` and ``root.squashfs`` made from these; built if it is not
    there."""
    inputs = [*(package.as_input() for package in packages), *(wheel.as_input() for wheel in fetched)]
    directory = os.path.join(cache, "base", key(inputs))
    if os.path.isdir(directory):
        progress("assemble", "the base system is in the cache")
    else:
        with completed(directory) as work:
            _fill(work, packages, fetched, progress)
    keep_latest(os.path.dirname(directory), os.path.basename(directory))
    return directory


def _fill(
    work: str, packages: tuple[debian.Package, ...], fetched: tuple[wheels.Wheel, ...], progress: Progress
) -> None:
    tree = os.path.join(work, TREE)
    progress("assemble", f"unpacking {len(packages)} packages and {len(fetched)} wheels")
    assemble(packages, fetched, tree)
    progress("compile", "compiling the standard library and wheels with the guest's interpreter")
    interpreter.compile_tree(tree, os.path.join(tree, STDLIB), f"/{STDLIB}")
    interpreter.compile_tree(tree, os.path.join(tree, SITE_PACKAGES), f"/{SITE_PACKAGES}")
    _normalise(tree)
    progress("squashfs", "compressing the base system")
    squashfs.make(tree, os.path.join(work, IMAGE), packages)


def key(inputs: Iterable[Input]) -> str:
    """Cache key of a base system: its inputs, the rules applied to them and the tool that packs it."""
    rules = [
        __file__,
        recipe.__file__,
        squashfs.__file__,
        elf.__file__,
        interpreter.__file__,
        interpreter.COMPILER,
        DROPPED_FILE,
    ]
    parts = [
        *sorted(f"{item.kind} {item.name} {item.sha256}" for item in inputs),
        *(file_sha256(path) for path in rules),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def assemble(packages: Iterable[debian.Package], fetched: Iterable[wheels.Wheel], tree: str) -> None:
    """Unpack and trim into ``tree``; sources are still sources."""
    site = os.path.join(tree, SITE_PACKAGES)
    debian.unpack(packages, tree)
    shutil.rmtree(site, ignore_errors=True)
    wheels.unpack(fetched, site)
    certificates = _certificates(tree)
    _keep_directories(tree)
    _keep_programs(tree)
    _drop(os.path.join(tree, STDLIB), dropped_patterns())
    _drop(site, recipe.DROPPED_IN_WHEELS, recipe.KEPT_IN_WHEELS)
    _keep_libraries(tree)
    _shorten(site)
    for path, text in {**FILES, CERTIFICATES: certificates}.items():
        _write(os.path.join(tree, path), text)
    for path in DIRECTORIES:
        os.makedirs(os.path.join(tree, path), exist_ok=True)
    for path, target in LINKS.items():
        os.makedirs(os.path.dirname(os.path.join(tree, path)), exist_ok=True)
        os.symlink(target, os.path.join(tree, path))


def dropped_patterns() -> tuple[str, ...]:
    """The patterns in ``data/dropped.txt``."""
    with open(DROPPED_FILE, encoding="utf-8") as stream:
        lines = (line.strip() for line in stream)
        return tuple(line for line in lines if line and not line.startswith("#"))


def _certificates(tree: str) -> str:
    # What the package's own trigger would do: all of Mozilla's, in the order of their names.
    texts = []
    for path in sorted(glob.glob(os.path.join(tree, "usr/share/ca-certificates/mozilla/*.crt"))):
        with open(path, encoding="ascii") as stream:
            texts.append(stream.read().rstrip("\n") + "\n")
    return "".join(texts)


def _keep_directories(tree: str) -> None:
    for name in os.listdir(tree):
        if name == "usr":
            for below in os.listdir(os.path.join(tree, name)):
                if f"usr/{below}" not in recipe.KEPT:
                    _remove(os.path.join(tree, name, below))
        elif name not in recipe.KEPT:
            _remove(os.path.join(tree, name))


def _keep_programs(tree: str) -> None:
    kept = {os.path.basename(path) for path in (*recipe.PROGRAMS, *recipe.STATIC_PROGRAMS)}
    for name in os.listdir(os.path.join(tree, "usr/bin")):
        if name not in kept:
            _remove(os.path.join(tree, "usr/bin", name))
    for name in os.listdir(os.path.join(tree, "usr/lib")):
        if name not in (recipe.PYTHON, "python3", "x86_64-linux-gnu"):
            _remove(os.path.join(tree, "usr/lib", name))


def _drop(root: str, patterns: Iterable[str], kept: Iterable[str] = ()) -> None:
    patterns, kept = tuple(patterns), tuple(kept)
    for directory, names, files in os.walk(root, topdown=False):
        for name in (*names, *files):
            path = os.path.relpath(os.path.join(directory, name), root)
            if _matches(path, patterns) and not _matches(path, kept):
                full = os.path.join(directory, name)
                if not os.path.isdir(full) or os.path.islink(full) or not kept or not os.listdir(full):
                    _remove(full)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _keep_libraries(tree: str) -> None:
    """Of the library directories keep what programs and extension modules are linked with."""
    binaries = [os.path.join(tree, path) for path in recipe.PROGRAMS]
    binaries += glob.glob(os.path.join(tree, STDLIB, "lib-dynload", "*.so"))
    binaries += glob.glob(os.path.join(tree, SITE_PACKAGES, "**", "*.so"), recursive=True)
    kept = {
        os.path.realpath(os.path.join(tree, path))
        for binary in binaries
        for path in interpreter.libraries(tree, binary)
    }
    for directory in recipe.LIBRARY_DIRECTORIES:
        full = os.path.join(tree, directory)
        for name in os.listdir(full):
            path = os.path.join(full, name)
            if os.path.realpath(path) not in kept and name not in recipe.EXTRA_LIBRARIES:
                _remove(path)
    _drop_unneeded_links(tree)


def _drop_unneeded_links(tree: str) -> None:
    """Only the names the loader asks for stay; links for compilers and versions go."""
    for directory in recipe.LIBRARY_DIRECTORIES:
        for path in glob.glob(os.path.join(tree, directory, "*")):
            if os.path.islink(path) and not os.path.exists(path):
                os.unlink(path)


def _shorten(site: str) -> None:
    """Cut symbol tables off the wheels' libraries, where they are a fifth; Debian has done it for its own."""
    for path in glob.glob(os.path.join(site, "**", "*.so"), recursive=True):
        with open(path, "rb") as stream:
            short = elf.segments_only(stream.read())
        with open(path, "wb") as stream:
            stream.write(short)


def _normalise(tree: str) -> None:
    """Modes that do not depend on packages or umask: everything readable, programs executable."""
    for directory, _, files in os.walk(tree):
        os.chmod(directory, 0o755)  # noqa: S103 - as every system directory
        for name in files:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                program = os.path.basename(directory) == "bin" or name.startswith("ld-linux")
                os.chmod(path, 0o755 if program else 0o644)
    os.chmod(os.path.join(tree, "tmp"), 0o1777)  # noqa: S103 - the guest's /tmp


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)

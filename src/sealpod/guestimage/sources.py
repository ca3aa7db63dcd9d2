# SPDX-License-Identifier: Apache-2.0
"""Which of sealpod's own files go into the guest, and what else they import.

The guest's programs start from the packages in :data:`GUEST_PACKAGES`; whatever modules of sealpod those
import, lazily or not, go along, and nothing else does. Imports are read from the source text, so that
building needs to import nothing. What leaves sealpod and the standard library must be a wheel the image
carries.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import sealpod
from sealpod.errors import OperationError
from sealpod.guestimage.manifest import file_sha256

GUEST_PACKAGES: Final = ("agent", "image", "kbc", "registry")
"""Packages whose every module runs, or may be chosen by name, inside the guest."""

BUILDER_PACKAGE: Final = "guestimage"
"""Not in the guest, but a change here may change the image."""

PACKAGE_ROOT: Final = os.path.dirname(os.path.abspath(sealpod.__file__))


@dataclass(frozen=True, slots=True)
class GuestSources:
    """``modules``: paths of .py files in ``sealpod``, sorted; ``standard``: modules of the standard library
    they import anywhere; ``external``: top-level names of all other imports."""

    modules: tuple[str, ...]
    standard: tuple[str, ...]
    external: frozenset[str]


def collect(root: str = PACKAGE_ROOT) -> GuestSources:
    """Follow the imports of the guest packages under ``root`` (the directory of the package ``sealpod``)."""
    pending = [path for package in GUEST_PACKAGES for path in _python_files(root, package)]
    seen: set[str] = set()
    standard: set[str] = set()
    external: set[str] = set()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        pending += _parents(root, path)
        for name in _imports(root, path):
            top = name.partition(".")[0]
            if top == "sealpod":
                pending += _module_files(root, name)
            elif top in sys.stdlib_module_names:
                standard.add(name)
            else:
                external.add(top)
    return GuestSources(tuple(sorted(seen)), tuple(sorted(standard)), frozenset(external))


def digests(modules: Iterable[str], root: str = PACKAGE_ROOT) -> dict[str, str]:
    """SHA-256 by path of the guest's modules and of everything the builder is made of."""
    paths = {*modules, *_files(root, BUILDER_PACKAGE)}
    return {path: file_sha256(os.path.join(root, path)) for path in sorted(paths)}


def changed(recorded: Mapping[str, str], root: str = PACKAGE_ROOT) -> str | None:
    """The first file that differs from what an image was built of, or None.

    A module newly reached by an import is found through the changed file that imports it; a new file in a
    package that goes along whole is looked for.
    """
    whole = {path for package in GUEST_PACKAGES for path in _python_files(root, package)}
    for path in sorted(whole | recorded.keys() | set(_files(root, BUILDER_PACKAGE))):
        try:
            if recorded.get(path) != file_sha256(os.path.join(root, path)):
                return path
        except OSError:
            return path
    return None


def combined(recorded: Mapping[str, str]) -> str:
    """One digest over all of ``recorded``."""
    lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(recorded.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _files(root: str, package: str) -> Iterator[str]:
    for directory, names, files in os.walk(os.path.join(root, package)):
        names[:] = sorted(name for name in names if name != "__pycache__")
        for name in sorted(files):
            # Editors leave hidden and backup files beside the real ones.
            if not name.startswith(".") and not name.endswith(("~", ".pyc", ".pyi")):
                yield os.path.relpath(os.path.join(directory, name), root)


def _python_files(root: str, package: str) -> Iterator[str]:
    return (path for path in _files(root, package) if path.endswith(".py"))


def _parents(root: str, path: str) -> Iterator[str]:
    directory = os.path.dirname(path)
    while True:
        candidate = os.path.join(directory, "__init__.py")
        if os.path.isfile(os.path.join(root, candidate)):
            yield candidate
        if not directory:
            return
        directory = os.path.dirname(directory)


def _module_files(root: str, name: str) -> list[str]:
    """The file of module ``name``; none when the name is an attribute of its module."""
    stem = name.replace(".", "/").partition("/")[2]
    candidates = (f"{stem}.py" if stem else "", os.path.join(stem, "__init__.py"))
    return [path for path in candidates if path and os.path.isfile(os.path.join(root, path))]


def _imports(root: str, path: str) -> Iterator[str]:
    with open(os.path.join(root, path), "rb") as stream:
        try:
            tree = ast.parse(stream.read(), path)
        except SyntaxError as error:
            raise OperationError(
                f"{path} is not valid Python (line {error.lineno})", code="guest.source"
            ) from error
    skipped = {id(node) for node in ast.walk(tree) if _is_typing_only(node) for node in ast.walk(node)}
    package = ["sealpod", *os.path.dirname(path).split("/")] if os.path.dirname(path) else ["sealpod"]
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            if module.partition(".")[0] == "sealpod":  # the names may be modules
                yield from (f"{module}.{alias.name}" for alias in node.names)


def _is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)

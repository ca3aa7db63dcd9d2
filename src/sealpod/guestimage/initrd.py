# SPDX-License-Identifier: Apache-2.0
"""Put the initrd together: busybox, /init, modules, the squashed base system, and sealpod's own byte code.

sealpod's code stands beside the squashfs rather than in it, so that a change of it does not pack the base
system anew. The archive is not compressed: nearly all of it is already.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import Final

from sealpod.errors import OperationError
from sealpod.guestimage import cpio, interpreter, kernel, recipe, rootfs
from sealpod.guestimage.sources import PACKAGE_ROOT, GuestSources

DATA: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
AGENT_CONFIG: Final = os.path.join(DATA, "agent-config.toml")
AGENT_CONFIG_PLACE: Final = "etc/agent-config.toml"
LATER_PLACE: Final = "usr/lib/sealpod/modules"
"""Where the agent looks for them (agent/modules.py)."""
DIRECTORIES: Final = ("app", "base", "bin", "dev", "modules", "new", "proc", "rw", "sys")
PROBE: Final = """\
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def write(
    path: str,
    *,
    base: str,
    busybox: str,
    modules: Iterable[tuple[str, bytes]],
    later: Iterable[tuple[str, bytes]] = (),
    guest: GuestSources,
    agent_config: str = AGENT_CONFIG,
    root: str = PACKAGE_ROOT,
) -> int:
    """Write the initrd to ``path`` and return its size in bytes.

    ``base`` is the directory :func:`sealpod.guestimage.rootfs.base` returned; ``later`` are modules the agent
    may load; ``agent_config`` is the file that becomes ``/etc/agent-config.toml``.

    Raises :class:`OperationError` (``guest.import``) when a module of the guest cannot be imported there,
    (``guest.size``) over the budget.
    """
    tree = os.path.join(base, rootfs.TREE)
    with tempfile.TemporaryDirectory(prefix=".app.", dir=os.path.dirname(path)) as app:
        site = os.path.join(app, rootfs.SITE_PACKAGES)
        _copy_sources(guest, root, os.path.join(site, "sealpod"))
        interpreter.compile_tree(tree, site, f"/{rootfs.SITE_PACKAGES}")
        _probe(tree, site, guest)
        _place(app, agent_config, later)
        entries = [*_fixed(base, busybox), *_modules(modules), *_below(app, "app")]
        with open(path, "wb") as out:
            size = cpio.write(entries, out)
    if size > recipe.MAX_INITRD:
        raise OperationError(f"the initrd has {size} bytes, more than {recipe.MAX_INITRD}", code="guest.size")
    return size


def _copy_sources(guest: GuestSources, root: str, target: str) -> None:
    for module in guest.modules:
        place = os.path.join(target, module)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        shutil.copyfile(os.path.join(root, module), place)


def _place(app: str, agent_config: str, later: Iterable[tuple[str, bytes]]) -> None:
    """Files that are neither code nor of a package."""
    config = os.path.join(app, AGENT_CONFIG_PLACE)
    os.makedirs(os.path.dirname(config), exist_ok=True)
    shutil.copyfile(agent_config, config)
    directory = os.path.join(app, LATER_PLACE)
    os.makedirs(directory)
    lines = []
    for name, content in later:
        lines.append(" ".join((name, *kernel.dependencies(content))) + "\n")
        with open(os.path.join(directory, f"{name}.ko"), "wb") as stream:
            stream.write(content)
    with open(os.path.join(directory, "order"), "w", encoding="ascii") as stream:
        stream.writelines(lines)


def _probe(tree: str, site: str, guest: GuestSources) -> None:
    """Import, with the guest's interpreter and root, every module that may be imported there."""
    names = [*guest.standard, *(_module_name(path) for path in guest.modules)]
    wanted = [name for name in names if not name.endswith("__main__")]
    try:
        interpreter.python(
            tree, "-c", PROBE, *wanted, search=(site, os.path.join(tree, rootfs.SITE_PACKAGES))
        )
    except OperationError as error:
        raise OperationError(
            f"the guest's code does not import in the guest: {error.message.rpartition(' | ')[2]}",
            code="guest.import",
        ) from error


def _module_name(path: str) -> str:
    return os.path.join("sealpod", path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _fixed(base: str, busybox: str) -> Iterator[cpio.Entry]:
    yield from (cpio.directory(name) for name in DIRECTORIES)
    yield cpio.character_device("dev/console", 5, 1)
    yield cpio.copy("bin/busybox", busybox, 0o755)
    yield cpio.copy("init", os.path.join(DATA, "init.sh"), 0o755)
    yield cpio.copy("floor", os.path.join(DATA, "floor.sh"), 0o755)
    yield cpio.copy("root.squashfs", os.path.join(base, rootfs.IMAGE))


def _modules(modules: Iterable[tuple[str, bytes]]) -> Iterator[cpio.Entry]:
    names = []
    for name, content in modules:
        names.append(name)
        yield cpio.file(f"modules/{name}.ko", content)
    yield cpio.file("modules/order", "".join(f"{name}\n" for name in names).encode())


def _below(directory: str, prefix: str) -> Iterator[cpio.Entry]:
    for place, names, files in os.walk(directory):
        relative = os.path.relpath(place, directory)
        here = prefix if relative == "." else os.path.join(prefix, relative)
        yield from (cpio.directory(os.path.join(here, name)) for name in names)
        for name in files:
            path = os.path.join(place, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield cpio.copy(os.path.join(here, name), path)

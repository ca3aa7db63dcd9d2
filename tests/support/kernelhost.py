# SPDX-License-Identifier: Apache-2.0
"""A machine that has what this one's kernel may lack: Debian's kernel with chosen modules, and this Python.

A script runs in an emulated guest of the kernel that guests have, as root and with this interpreter, its
standard library, and the parts of sealpod and other packages it needs. What it prints as its last line that
begins with ``RESULT`` is the answer; everything else on the console explains a failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sealpod.guestimage import cpio, debian, kernel, recipe
from sealpod.guestimage.busybox import read_busybox
from sealpod.guestimage.cache import cache_directory
from sealpod.qemu.arguments import EMULATED_CPU

RESULT: Final = "RESULT "
SCRIPT: Final = "script.py"
SITE: Final = "site"
UNNEEDED: Final = frozenset(
    ("test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "__pycache__")
)
INIT: Final = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev; $b mount -t proc proc /proc; $b mount -t sysfs sys /sys
$b mount -t tmpfs -o mode=1777 tmp /tmp; $b mkdir -p /run; $b ip link set lo up
for module in $($b cat /modules/order); do $b insmod /modules/$module.ko; done
export PATH=/bin:/usr/bin HOME=/tmp PYTHONHOME={prefix} PYTHONPATH=/{site}
{python} -B /{script}
$b poweroff -f
"""


def run(
    script: Path,
    *,
    modules: Sequence[str],
    packages: Mapping[str, Path],
    programs: Iterable[str] = (),
    files: Mapping[str, Path] | None = None,
    memory: int = 512,
    cpus: int = 1,
    seconds: float = 240,
) -> Any:
    """What ``script`` answers. ``packages``: places below the path Python searches, and what goes there.

    ``files``: more, by absolute path; of ``programs`` the libraries come along.
    """
    with tempfile.TemporaryDirectory(prefix="kernelhost-") as work:
        place = Path(work)
        image = _kernel(place / "kernel", tuple(modules))
        entries = _Tree(place)
        entries.fixed(image, script)
        entries.interpreter()
        for name, source in packages.items():
            entries.code(f"{SITE}/{name}", source)
        for program in programs:
            entries.program(program)
        for name, source in (files or {}).items():
            entries.add(name, source)
        with open(place / "initrd", "wb") as out:
            cpio.write(entries.all(), out)
        console = _emulate(image.image, str(place / "initrd"), memory, cpus, seconds)
    lines = [line for line in console.splitlines() if line.startswith(RESULT)]
    assert lines, console[-6000:]
    return json.loads(lines[-1].removeprefix(RESULT))


def _kernel(place: Path, modules: tuple[str, ...]) -> kernel.Kernel:
    packages = debian.fetch(recipe.KERNEL, cache_directory(), debian.system_mirror)
    debian.unpack(packages, str(place))
    return kernel.read(str(place), modules)


def _emulate(image: str, initrd: str, memory: int, cpus: int, seconds: float) -> str:
    done = subprocess.run(
        [
            "qemu-system-x86_64",
            *("-machine", "q35,accel=tcg", "-cpu", EMULATED_CPU, "-m", str(memory), "-smp", str(cpus)),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
            *("-kernel", image, "-initrd", initrd),
            *("-append", "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
    )
    return done.stdout.decode(errors="replace").replace("\r", "")


class _Tree:
    """Files of the machine, each with the directories above it."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._entries: dict[str, cpio.Entry] = {}
        self._compiled = 0

    def all(self) -> list[cpio.Entry]:
        return list(self._entries.values())

    def fixed(self, image: kernel.Kernel, script: Path) -> None:
        for name in ("dev", "proc", "sys", "tmp", "run"):
            self._put(cpio.directory(name))
        self._put(cpio.character_device("dev/console", 5, 1))
        self._put(cpio.file("bin/busybox", read_busybox(), 0o755))
        for name in ("sh", "ip"):
            self._put(cpio.symlink(f"bin/{name}", "busybox"))
        for name, content in image.modules:
            self._put(cpio.file(f"modules/{name}.ko", content))
        order = "".join(f"{name}\n" for name, _ in image.modules)
        self._put(cpio.file("modules/order", order.encode()))
        text = INIT.format(
            prefix=sys.base_prefix, python=os.path.realpath(sys.executable), script=SCRIPT, site=SITE
        )
        self._put(cpio.file("init", text.encode(), 0o755))
        self._put(cpio.copy(SCRIPT, str(script)))

    def interpreter(self) -> None:
        self.program(os.path.realpath(sys.executable))
        library = Path(sysconfig.get_path("stdlib"))
        self.code(str(library).lstrip("/"), library)

    def code(self, place: str, source: Path) -> None:
        """A package or module, compiled: the machine's clock does not know when its sources were written."""
        if source.is_file():
            self._module(place, source)
            return
        for directory, names, found in os.walk(source):
            names[:] = [name for name in names if name not in UNNEEDED]
            below = os.path.relpath(directory, source)
            for name in found:
                self._module(os.path.normpath(os.path.join(place, below, name)), Path(directory, name))

    def program(self, path: str) -> None:
        self.add(path, Path(path))
        self._libraries(path)

    def add(self, name: str, source: Path) -> None:
        mode = 0o755 if os.access(source, os.X_OK) else 0o644
        self._put(cpio.copy(name.lstrip("/"), str(source), mode))

    def _libraries(self, path: str) -> None:
        told = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", told):
            self.add(library, Path(library))

    def _module(self, place: str, source: Path) -> None:
        if source.suffix == ".py":
            self._compiled += 1
            target = str(self._work / f"{self._compiled}.pyc")
            cached = Path(importlib.util.cache_from_source(str(source)))
            if cached.exists() and cached.stat().st_mtime >= source.stat().st_mtime:
                target = str(cached)
            elif py_compile.compile(str(source), target, dfile=place, quiet=1) is None:
                return
            self._put(cpio.copy(f"{place}c", target))
        elif source.suffix != ".pyc":
            self.add(place, source)
            if source.suffix == ".so":
                self._libraries(str(source))

    def _put(self, entry: cpio.Entry) -> None:
        for directory in _above(entry.path):
            self._entries.setdefault(directory, cpio.directory(directory))
        self._entries[entry.path] = entry


def _above(path: str) -> Iterator[str]:
    parts = path.split("/")[:-1]
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))

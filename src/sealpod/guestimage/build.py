# SPDX-License-Identifier: Apache-2.0
"""Build the guest image: fetch, assemble, compile, squash, archive; then the manifest.

Each output is made beside its place and renamed into it; the manifest is removed first and comes back last,
so a directory with a manifest is always complete.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sealpod.errors import DecodeError, NotFoundError, SealpodError, UsageError
from sealpod.guestimage import debian, firmware, initrd, kernel, recipe, rootfs, sources, wheels
from sealpod.guestimage.aptsources import Mirror
from sealpod.guestimage.cache import clear_leftovers, locked, make_directory
from sealpod.guestimage.locate import read_manifest
from sealpod.guestimage.manifest import FILE_NAME, Input, Manifest, Output, file_sha256

KERNEL_NAME: Final = "vmlinuz"
INITRD_NAME: Final = "initrd.img"
CONFIG_NAME: Final = "agent-config.toml"
WORK_PREFIX: Final = ".build."
MACHINE: Final = "x86_64"


@dataclass(frozen=True, slots=True)
class Result:
    """``built`` tells whether anything was made, or what was there is still right."""

    directory: str
    firmware: str
    manifest: Manifest
    built: bool


def build(
    directory: str,
    cache: str,
    progress: rootfs.Progress,
    *,
    mirror: Callable[[], Mirror] = debian.system_mirror,
    agent_config: str = initrd.AGENT_CONFIG,
    force: bool = False,
    refresh: bool = False,
) -> Result:
    """Make the guest image in ``directory`` unless it is up to date (or ``force``), and see to the firmware.

    ``agent_config`` is the file the guest's agent finds its settings in. ``refresh`` asks the mirror for
    newer packages than the cache's. Another build with the same cache is waited for.
    """
    if platform.machine() != MACHINE:
        raise UsageError(
            f"guest images are built on {MACHINE}, this machine is {platform.machine()}", code="guest.machine"
        )
    with locked(cache):
        clear_leftovers(cache)
        path = ensure_firmware(cache, progress, mirror, refresh=refresh)
        current = None if force or refresh else up_to_date(directory)
        if current is not None and _config(agent_config) in current.inputs:
            return Result(directory, path, current, built=False)
        made = _build(directory, cache, progress, mirror, refresh, agent_config)
        return Result(directory, path, made, built=True)


def up_to_date(directory: str) -> Manifest | None:
    """The manifest in ``directory`` if the image is complete and made from the sealpod that runs."""
    try:
        manifest = read_manifest(directory)
    except (NotFoundError, DecodeError):
        return None
    for output in manifest.outputs.values():
        path = os.path.join(directory, output.file)
        if not os.path.isfile(path) or os.path.getsize(path) != output.size:
            return None
    return manifest if sources.changed(manifest.sources) is None else None


def ensure_firmware(
    cache: str, progress: rootfs.Progress, mirror: Callable[[], Mirror], *, refresh: bool = False
) -> str:
    """The path of a usable firmware: the system's, else one fetched into the cache."""
    try:
        found = firmware.find(cache)
        if not refresh or found != firmware.cached_path(cache):
            return found
    except NotFoundError:
        pass
    progress("fetch", f"firmware {recipe.FIRMWARE.names[0]} ({recipe.FIRMWARE.suite})")
    packages = debian.fetch(recipe.FIRMWARE, cache, mirror, refresh=refresh)
    target = firmware.cached_path(cache)
    make_directory(os.path.dirname(target))
    with tempfile.TemporaryDirectory(dir=cache) as work:
        debian.unpack(packages, work)
        for place in firmware.WELL_KNOWN_PATHS:
            if firmware.is_usable(work + place):
                os.replace(work + place, target)
                return target
    raise NotFoundError("the firmware package holds no usable firmware", code="guest.firmware")


def _config(path: str) -> Input:
    """The agent's configuration as an input; it is the image's, not a package's, so it has no version."""
    try:
        return Input("file", CONFIG_NAME, "", file_sha256(path))
    except OSError as error:
        text = f"cannot read the agent's configuration {path}: {error.strerror}"
        raise NotFoundError(text, code="guest.agent-config") from error


def _build(
    directory: str,
    cache: str,
    progress: rootfs.Progress,
    mirror: Callable[[], Mirror],
    refresh: bool,
    agent_config: str,
) -> Manifest:
    config = _config(agent_config)
    guest = sources.collect()
    # Before they are copied: if one is edited meanwhile, the image is stale rather than wrongly labelled.
    recorded = sources.digests(guest.modules)
    progress("fetch", "wheels")
    fetched = wheels.fetch(wheels.pinned(_wheel_names(guest.external)), cache)
    progress("fetch", f"kernel ({recipe.KERNEL.suite})")
    kernels = debian.fetch(recipe.KERNEL, cache, mirror, refresh=refresh)
    progress("fetch", f"{len(recipe.USERLAND.names)} packages ({recipe.USERLAND.suite})")
    packages = debian.fetch(recipe.USERLAND, cache, mirror, refresh=refresh)
    base = rootfs.base(packages, fetched, cache, progress)
    make_directory(directory)
    for name in os.listdir(directory):
        if name.startswith(WORK_PREFIX):  # an interrupted build's
            shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=directory) as work:
        debian.unpack(kernels, os.path.join(work, "kernel"))
        debian.unpack((p for p in packages if p.name == "busybox-static"), os.path.join(work, "busybox"))
        image = kernel.read(os.path.join(work, "kernel"), recipe.MODULES, recipe.LATER_MODULES)
        progress("cpio", f"{len(guest.modules)} modules of sealpod, {len(image.modules)} of the kernel")
        initrd.write(
            os.path.join(work, INITRD_NAME),
            base=base,
            busybox=os.path.join(work, "busybox/bin/busybox"),
            modules=image.modules,
            later=image.later,
            guest=guest,
            agent_config=agent_config,
        )
        shutil.copyfile(image.image, os.path.join(work, KERNEL_NAME))
        manifest = Manifest(
            image.release,
            _inputs((*kernels, *packages), fetched, config),
            recorded,
            {
                "kernel": Output.of(os.path.join(work, KERNEL_NAME)),
                "initrd": Output.of(os.path.join(work, INITRD_NAME)),
            },
        )
        _publish(work, directory, manifest)
    progress(
        "done", f"kernel {image.release}, initrd of {manifest.outputs['initrd'].size / (1 << 20):.1f} MiB"
    )
    return manifest


def _inputs(
    packages: tuple[debian.Package, ...], fetched: tuple[wheels.Wheel, ...], config: Input
) -> tuple[Input, ...]:
    found = [config, *(package.as_input() for package in packages)]
    found += [wheel.as_input() for wheel in fetched]
    return tuple(sorted(found, key=lambda item: (item.kind, item.name)))


def _wheel_names(external: frozenset[str]) -> set[str]:
    unknown = sorted(external - recipe.WHEELS_OF.keys())
    if unknown:
        raise SealpodError(
            f"the guest's code imports {', '.join(unknown)}, which the image does not carry",
            code="guest.import",
        )
    return {wheel for name in external for wheel in recipe.WHEELS_OF[name]}


def _publish(work: str, directory: str, manifest: Manifest) -> None:
    with open(os.path.join(work, FILE_NAME), "w", encoding="utf-8") as stream:
        stream.write(manifest.encode())
    place = os.path.join(directory, FILE_NAME)
    if os.path.exists(place):
        os.unlink(place)
    for name in (KERNEL_NAME, INITRD_NAME, FILE_NAME):
        path = os.path.join(work, name)
        os.chmod(path, 0o644)
        os.replace(path, os.path.join(directory, name))

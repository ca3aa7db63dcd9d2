# SPDX-License-Identifier: Apache-2.0
"""A pod's annotations upon the settings of the file.

``pre_attestation.*`` and ``sev.policy`` (CC-0.5.0), and ``runtime.create_container_timeout``, always count;
``runtime.sandbox_cgroup_only`` as far as it does not take a pod out of its limits.
One below ``hypervisor.`` counts when ``enable_annotations`` has an expression of its whole base name, else
the pod is refused: its owner asked for something it will not get. ``kernel`` therefore does not open
``kernel_params``, as it does in Kata, whose expressions match anywhere in a name.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from sealpod.errors import DecodeError, RefusedError
from sealpod.kataconfig.limits import CREATE_SECONDS
from sealpod.kataconfig.reader import Origin
from sealpod.kataconfig.settings import Settings
from sealpod.kataconfig.values import host_port, kernel_words, name_pattern

PREFIX: Final = "io.katacontainers.config."
_HYPERVISOR: Final = PREFIX + "hypervisor."

MIN_MEMORY: Final = 256  # MiB, Kata's MinHypervisorMemory
MAX_CPUS: Final = 240  # Kata's cap of a guest's processors
_MAX_UINT32: Final = 2**32 - 1
_MAX_BASE_NAME: Final = 63  # characters of an annotation's name, Kubernetes' limit
_NUMBER: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
_FILES: Final = frozenset(("kernel", "initrd", "firmware", "path"))


def apply_annotations(settings: Settings, annotations: Mapping[str, str]) -> Settings:
    """The settings with a pod's annotations applied, in order of their names.

    :raise RefusedError: when an annotation is not enabled.
    :raise DecodeError: when a value cannot be.
    """
    for name, value in sorted(annotations.items()):
        if name.startswith(_HYPERVISOR):
            settings = _hypervisor(settings, name, value)
        elif name.startswith(PREFIX):
            settings = _always(settings, name, value)
    return settings


def _always(settings: Settings, name: str, value: str) -> Settings:
    if name not in _ALWAYS:
        return _without_effect(settings, name)
    field, read = _ALWAYS[name]
    read_value = read(name, value)
    if field == "sandbox_cgroup_only" and settings.sandbox_cgroup_only and not read_value:
        # Kata lets a pod undo this, and so put its machine's memory where no limit counts it.
        raise RefusedError(
            f"annotation {name} is false, and the node's configuration says true",
            code="config.annotation",
            remedy="leave the annotation out",
        )
    return _set(settings, field, name, read_value)


def _hypervisor(settings: Settings, name: str, value: str) -> Settings:
    base = name.removeprefix(_HYPERVISOR)
    if not _is_enabled(settings, base):
        raise RefusedError(
            f"annotation {name[:120]} is not enabled",
            code="config.annotation",
            remedy="the node's administrator can add it to enable_annotations",
        )
    if base.endswith("_hash"):  # to leave out a check somebody asked for would be worse than to fail
        raise DecodeError(f"annotation {name} is not supported", code="config.value")
    if base in _FILES:
        return _file(settings, base, name, value)
    if base == "kernel_params":
        words = (*settings.kernel_params, *kernel_words(value, name))
        return _set(settings, "kernel_params", name, words)
    if base == "default_vcpus":
        return _set(settings, "vcpus", name, _number(name, value, 1, MAX_CPUS))
    if base == "default_memory":
        return _set(settings, "memory", name, _number(name, value, MIN_MEMORY, _MAX_UINT32))
    return _without_effect(settings, name)


def _is_enabled(settings: Settings, base: str) -> bool:
    return len(base) <= _MAX_BASE_NAME and any(
        name_pattern(pattern).fullmatch(base) for pattern in settings.enable_annotations
    )


def _file(settings: Settings, base: str, name: str, value: str) -> Settings:
    if not value.startswith("/") or not value.isprintable() or ".." in value.split("/"):
        raise DecodeError(f"{name} is {value[:80]!r}, expected an absolute path", code="config.value")
    if base == "path" and not any(_matches(value, pattern) for pattern in settings.valid_hypervisor_paths):
        raise RefusedError(
            f"annotation {name} names {value[:80]!r}, which valid_hypervisor_paths does not allow",
            code="config.annotation",
        )
    return _set(settings, base, name, value)


def _matches(path: str, pattern: str) -> bool:
    """glob(3): no wildcard matches a slash."""
    parts, patterns = path.split("/"), pattern.split("/")
    pairs = zip(parts, patterns, strict=False)
    return len(parts) == len(patterns) and all(fnmatch.fnmatchcase(part, one) for part, one in pairs)


def _boolean(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise DecodeError(f"{name} is {value[:40]!r}, expected true or false", code="config.value")
    return value == "true"


def _number(name: str, value: str, low: int, high: int) -> int:
    if _NUMBER.fullmatch(value) is None or not low <= int(value) <= high:
        raise DecodeError(
            f"{name} is {value[:40]!r}, expected a number from {low} to {high}", code="config.value"
        )
    return int(value)


def _set(settings: Settings, field: str, name: str, value: object) -> Settings:
    changed: dict[str, Any] = {
        field: value,
        "origins": {**settings.origins, field: Origin("annotation", name)},
    }
    return replace(settings, **changed)


def _without_effect(settings: Settings, name: str) -> Settings:
    text = f"annotation {name[:120]} has no effect here"
    return replace(settings, warnings=(*settings.warnings, text))


_ALWAYS: Final[Mapping[str, tuple[str, Callable[[str, str], object]]]] = {
    PREFIX + "pre_attestation.enabled": ("pre_attestation", _boolean),
    PREFIX + "pre_attestation.uri": ("kbs_uri", lambda name, value: host_port(value, name)),
    PREFIX + "sev.policy": ("policy", lambda name, value: _number(name, value, 0, _MAX_UINT32)),
    PREFIX + "runtime.create_container_timeout": (
        "create_timeout",
        lambda name, value: _number(name, value, 0, _MAX_UINT32) or CREATE_SECONDS,
    ),
    PREFIX + "runtime.sandbox_cgroup_only": ("sandbox_cgroup_only", _boolean),
}
"""The setting of each annotation that needs no leave, and what reads its value."""

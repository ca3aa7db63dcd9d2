# SPDX-License-Identifier: Apache-2.0
"""What a pod's manifest says to the runtime: its annotations, and the processors its containers may use.

A file of Kubernetes: one Pod, or one object with a pod template (Deployment, DaemonSet, StatefulSet, Job,
CronJob, ...); other objects beside it are passed over. kubelet asks the runtime for the sum of the
containers' limits or, where it is more, the largest need while the init containers run one after the other;
an init container with ``restartPolicy: Always`` keeps running beside all that follow. A limit of the pod
itself (``spec.resources``, Kubernetes 1.34 and later) takes the place of them all (kubelet's ``PodLimits``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from sealpod.errors import DecodeError
from sealpod.kataconfig.quantity import parse_quantity

MAX_TEXT: Final = 1 << 20
"""Characters; etcd takes no larger object."""

_TEMPLATES: Final = (("spec", "template"), ("spec", "jobTemplate", "spec", "template"))
_MAX_CPUS: Final = 10**9  # processors from which a limit is a slip of the pen


@dataclass(frozen=True, slots=True)
class Pod:
    """The parts of a manifest that decide about its guest."""

    annotations: Mapping[str, str]
    runtime_class: str
    """Empty when none is named."""
    milli_cpus: int
    """Thousandths of a processor the pod may use; 0: no limit."""


def parse_pod(text: str) -> Pod:
    """The one pod of a manifest.

    :raise DecodeError: no YAML, not one pod, or a value that cannot be; code ``pod.malformed``.
    """
    if len(text) > MAX_TEXT:
        raise _malformed(f"{len(text)} characters")
    try:
        pods = [pod for item in yaml.safe_load_all(text) for pod in _pods(item)]
    except (yaml.YAMLError, ValueError, RecursionError):
        raise _malformed("it is not YAML") from None
    if len(pods) != 1:
        raise _malformed(f"it has {len(pods) or 'no'} pods, one is measured at a time")
    metadata, spec = _mapping(pods[0].get("metadata")), _mapping(pods[0].get("spec"))
    runtime = spec.get("runtimeClassName", "")
    return Pod(
        annotations=_strings(_mapping(metadata.get("annotations"))),
        runtime_class=runtime if isinstance(runtime, str) else "",
        milli_cpus=_milli_cpus(spec),
    )


def _pods(item: object) -> Iterator[dict[str, Any]]:
    """The pods of one object: itself, its template, or those of a list."""
    if not isinstance(item, dict):
        return
    if item.get("kind") == "List":
        for one in _list(item.get("items")):
            yield from _pods(one)
    elif item.get("kind") == "Pod":
        yield item
    else:
        for path in _TEMPLATES:
            found: object = item
            for name in path:
                found = found.get(name) if isinstance(found, dict) else None
            if isinstance(found, dict):
                yield found


def _milli_cpus(spec: Mapping[str, Any]) -> int:
    running = sum(_limit(one) for one in _list(spec.get("containers")))
    beside = most = 0
    for one in _list(spec.get("initContainers")):
        if isinstance(one, dict) and one.get("restartPolicy") == "Always":
            beside += _limit(one)
            most = max(most, beside)
        else:
            most = max(most, beside + _limit(one))
    own = _cpu_limit(spec)
    return max(running + beside, most) if own is None else _milli(own, "the pod's")


def _limit(container: object) -> int:
    value = _cpu_limit(_mapping(container))
    return 0 if value is None else _milli(value, "a container's")


def _cpu_limit(bearer: Mapping[str, Any]) -> str | None:
    """What stands as the limit of a container, or of a pod; None where nothing does."""
    limits = _mapping(_mapping(bearer.get("resources")).get("limits"))
    return str(limits["cpu"]) if "cpu" in limits else None


def _milli(text: str, whose: str) -> int:
    amount = parse_quantity(text)
    if amount is None or not 0 <= amount < _MAX_CPUS:
        raise DecodeError(
            f"the pod's manifest cannot be used: {whose} limit of cpu is {text[:40]!r}",
            code="pod.malformed",
            remedy="write a number of processors as Kubernetes takes it: 2, 0.5, 500m",
        )
    return math.ceil(amount * 1000)  # Kubernetes rounds a fraction of a thousandth up


def _strings(values: Mapping[str, Any]) -> dict[str, str]:
    for name, value in values.items():
        if not all(isinstance(each, str) for each in (name, value)):
            raise _malformed(f"annotation {str(name)[:80]!r} is no text; put its value in quotes")
    return {str(name): str(value) for name, value in values.items()}


def _mapping(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _malformed("a list or word where names and values belong")
    return value


def _list(value: object) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _malformed("something else where a list belongs")
    return value


def _malformed(what: str) -> DecodeError:
    return DecodeError(f"the pod's manifest cannot be used: {what}", code="pod.malformed")

# SPDX-License-Identifier: Apache-2.0
"""What a pod's manifest says to the runtime: its annotations, and the processors its containers may use.

A file of Kubernetes: one Pod, or one object with a pod template (Deployment, DaemonSet, StatefulSet, Job,
CronJob, ...); other objects beside it are passed over. kubelet asks the runtime for the sum of the
containers' limits or, where it is more, the largest need while the init containers run one after the other;
an init container with ``restartPolicy: Always`` keeps running beside all that follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import yaml

from sealpod.errors import DecodeError

MAX_TEXT: Final = 1 << 20
"""Characters; etcd takes no larger object."""

_TEMPLATES: Final = (("spec", "template"), ("spec", "jobTemplate", "spec", "template"))
# Kubernetes' quantities of processors: 2, 0.5, 250m. Other suffixes are for bytes.
_QUANTITY: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(m?)", re.ASCII)


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
    return max(running + beside, most)


def _limit(container: object) -> int:
    limits = _mapping(_mapping(_mapping(container).get("resources")).get("limits"))
    value = limits.get("cpu", 0)
    match = _QUANTITY.fullmatch(str(value))
    if match is None or isinstance(value, bool):
        raise _malformed(f"a container's limit of cpu is {str(value)[:40]!r}")
    amount = Decimal(match[1]) * (1 if match[2] else 1000)
    # Kubernetes rounds a fraction of a thousandth up.
    return int(amount.to_integral_value(rounding="ROUND_CEILING"))


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

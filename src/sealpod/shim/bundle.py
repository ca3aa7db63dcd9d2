# SPDX-License-Identifier: Apache-2.0
"""What a bundle's directory says: whose pod it is, and where that pod's shim listens.

Annotations are containerd's and CRI-O's. One shim serves a pod: its address follows from containerd's own
address, the namespace and the pod's id, so every member finds it by itself.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import Any

SOCKET_DIRECTORY = "/run/containerd/s"
MAX_CONFIG = 16 << 20
"""Bytes of a ``config.json`` that are read."""
_TYPE = (
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri-o.ContainerType",
    "io.katacontainers.pkg.oci.container_type",
)
_POD = ("io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID")
_MEMBER = ("container", "pod_container")
_SANDBOX = ("sandbox", "pod_sandbox")


def read_config(bundle: str) -> dict[str, Any]:
    """The OCI specification of a bundle. OSError or ValueError when it cannot be read."""
    with open(os.path.join(bundle, "config.json"), "rb") as file:
        document = json.loads(file.read(MAX_CONFIG))
    if not isinstance(document, dict):
        raise ValueError("config.json is not an object")
    return document


def annotations_of(config: dict[str, Any]) -> dict[str, str]:
    """The annotations that are text."""
    found = config.get("annotations") or {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _first(annotations: dict[str, str], names: tuple[str, ...]) -> str:
    return next((annotations[name] for name in names if annotations.get(name)), "")


def is_member(annotations: dict[str, str]) -> bool:
    """A container of a pod that another shim's start made."""
    return _first(annotations, _TYPE) in _MEMBER


def is_sandbox(annotations: dict[str, str]) -> bool:
    """The pod's own container, whose process does nothing. A container without a type is a pod alone."""
    return _first(annotations, _TYPE) in _SANDBOX


def pod_id(annotations: dict[str, str], own: str) -> str:
    """The id of the pod a bundle belongs to."""
    return (_first(annotations, _POD) or own) if is_member(annotations) else own


def socket_path(address: str, namespace: str, pod: str) -> str:
    """Where the pod's shim listens: containerd's own way of naming shims' sockets."""
    digest = sha256(os.path.join(address, namespace, pod).encode()).hexdigest()
    return os.path.join(os.environ.get("SEALPOD_SHIM_SOCKETS", SOCKET_DIRECTORY), digest)

# SPDX-License-Identifier: Apache-2.0
"""Whose pod a bundle is, and where its shim listens. The path's vector is containerd 1.6.20's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sealpod.shim import bundle

CRI = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod1"}
CRIO = {"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "pod1"}


def test_the_path_is_containerds_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALPOD_SHIM_SOCKETS", raising=False)
    path = bundle.socket_path("/run/containerd/containerd.sock", "k8s.io", "abc")
    assert path == "/run/containerd/s/a99a1752d3a0fadfb1f869026f16760475df03a572e20f4ccea9e6c1e5470b72"


@pytest.mark.parametrize("annotations", [CRI, CRIO])
def test_a_member_belongs_to_its_pod(annotations: dict[str, str]) -> None:
    assert bundle.is_member(annotations)
    assert not bundle.is_sandbox(annotations)
    assert bundle.pod_id(annotations, "own") == "pod1"


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "own"},
        {"io.kubernetes.cri-o.ContainerType": "sandbox", "io.kubernetes.cri-o.SandboxID": "own"},
        {"io.katacontainers.pkg.oci.container_type": "pod_sandbox"},
    ],
)
def test_a_sandbox_and_a_container_alone_are_pods_of_their_own(annotations: dict[str, str]) -> None:
    assert not bundle.is_member(annotations)
    assert bundle.pod_id(annotations, "own") == "own"
    assert bundle.is_sandbox(annotations) is bool(annotations)


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff", '"x"'])
def test_a_config_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"object|Expecting|decode"):
        bundle.read_config(str(tmp_path))


@pytest.mark.parametrize("annotations", [None, {}, {"n": 1, "m": None, "o": []}])
def test_annotations_that_are_no_text_do_not_count(tmp_path: Path, annotations: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"annotations": annotations}))
    assert bundle.annotations_of(bundle.read_config(str(tmp_path))) == {}

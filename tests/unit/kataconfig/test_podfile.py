# SPDX-License-Identifier: Apache-2.0
"""Pods in manifests: where they stand, and what their containers may use."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.kataconfig.podfile import MAX_TEXT, parse_pod

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: one
  annotations:
    io.katacontainers.config.sev.policy: "5"
spec:
  runtimeClassName: kata-qemu-sev
  initContainers:
  - {name: first, resources: {limits: {cpu: 500m}}}
  containers:
  - {name: a, resources: {limits: {cpu: "1", memory: 1Gi}}}
  - {name: b, resources: {limits: {cpu: 0.25}}}
  - {name: c}
"""


def test_a_pod() -> None:
    pod = parse_pod(POD)
    assert pod.annotations == {"io.katacontainers.config.sev.policy": "5"}
    assert (pod.runtime_class, pod.milli_cpus) == ("kata-qemu-sev", 1250)


@pytest.mark.parametrize(
    "template",
    [
        "kind: Deployment\nspec:\n  template:\n{}",
        "kind: CronJob\nspec:\n  jobTemplate:\n    spec:\n      template:\n{}",
        "kind: ConfigMap\n---\nkind: Pod\n{}",
        "kind: List\nitems:\n- kind: Service\n- kind: Pod\n{}",
    ],
)
def test_where_a_pod_may_stand(template: str) -> None:
    depth = {"D": 4, "C": 8, "L": 2}.get(template[6], 0) if "ConfigMap" not in template else 0
    indent = " " * depth
    body = f"{indent}metadata: {{annotations: {{x: y}}}}\n{indent}spec: {{containers: []}}\n"
    assert parse_pod(template.format(body)).annotations == {"x": "y"}


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("[{resources: {limits: {cpu: 3}}}]", 3000),
        ("[{restartPolicy: Always, resources: {limits: {cpu: 1}}}]", 2000),
        (
            "[{restartPolicy: Always, resources: {limits: {cpu: 1}}}, {resources: {limits: {cpu: 1500m}}}]",
            2500,
        ),
        ("[{resources: {limits: {cpu: 10m}}}]", 1000),
    ],
)
def test_init_containers_count_as_kubelet_counts_them(init: str, expected: int) -> None:
    text = (
        f"kind: Pod\nspec:\n  initContainers: {init}\n  containers: [{{resources: {{limits: {{cpu: 1}}}}}}]"
    )
    assert parse_pod(text).milli_cpus == expected


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("{limits: {cpu: 3, memory: 1Gi}}", 3000),
        ("{limits: {cpu: 500m}}", 500),
        ("{limits: {cpu: 0}}", 0),
        ("{limits: {memory: 1Gi}}", 2000),
        ("{requests: {cpu: 5}}", 2000),
        ("{}", 2000),
    ],
)
def test_a_limit_of_the_pod_takes_the_place_of_its_containers_limits(own: str, expected: int) -> None:
    containers = "[{resources: {limits: {cpu: 1}}}, {resources: {limits: {cpu: 1}}}]"
    text = f"kind: Pod\nspec: {{resources: {own}, containers: {containers}}}"
    assert parse_pod(text).milli_cpus == expected


def test_a_limit_that_cannot_be_says_how_to_write_one() -> None:
    for spec in ("resources: {limits: {cpu: 1x}}", "containers: [{resources: {limits: {cpu: 1E}}}]"):
        with pytest.raises(DecodeError) as caught:
            parse_pod(f"kind: Pod\nspec: {{{spec}}}")
        assert (caught.value.code, "500m" in caught.value.remedy) == ("pod.malformed", True)


def test_a_fraction_of_a_thousandth_is_rounded_up() -> None:
    text = "kind: Pod\nspec: {containers: [{resources: {limits: {cpu: 0.0001}}}]}"
    assert parse_pod(text).milli_cpus == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kind: Service",
        "[1, 2]",
        "a: [",
        POD + "---\n" + POD,
        "kind: Pod\nmetadata: {annotations: {a: 5}}",
        "kind: Pod\nmetadata: {annotations: [a]}",
        "kind: Pod\nspec: {containers: {a: 1}}",
        "kind: Pod\nspec: {containers: [{resources: {limits: {cpu: 1Gi}}}]}",
        "kind: Pod\nspec: {containers: [{resources: {limits: {cpu: true}}}]}",
        "kind: Pod\nspec: {containers: [{resources: {limits: {cpu: -1}}}]}",
        "kind: Pod\nspec: {resources: {limits: [cpu]}}",
        "!!python/object/apply:os.system ['true']",
        "kind: Pod\n" + " " * MAX_TEXT,
        "- " * 20000,
    ],
)
def test_what_is_no_pod_is_refused(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_pod(text)
    assert caught.value.code == "pod.malformed"


@given(st.text(alphabet="kind: Podspecmetalrtnouis{}[]&*!|>-\n\"'0123456789m", max_size=200))
def test_any_text_is_a_pod_or_refused(text: str) -> None:
    with suppress(DecodeError):
        parse_pod("kind: Pod\n" + text)

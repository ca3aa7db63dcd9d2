# SPDX-License-Identifier: Apache-2.0
"""Pods on containerd 1.7: what its requests differ in from those of 1.6, which the other tests run on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import grpc
import pytest
from containerd17 import fetched
from containerdhost import missing
from criclient import EXITED, NOT_READY, RUNNING, CriClient, fetch, log, wait_for_log
from leftovers import Leftovers
from podimages import CONFIDENTIAL, PodLab, pod_lab
from sitefiles import assert_kept_from_the_host

from sealpod.sandbox.spec import GuestFiles

pytestmark = [pytest.mark.e2e, pytest.mark.network]
HANDLER = "io.containerd.cri.runtime-handler"


@pytest.fixture(scope="module")
def newer(guest_files: GuestFiles) -> Iterator[PodLab]:
    """A node with the next release's containerd."""
    found = fetched("1.7")
    if why := found.missing or missing(found.program):
        pytest.skip(why)
    with pod_lab(containerd=found.program) as made:
        assert f"version={found.wanted}." in made.host.log().replace('"', "").replace("v1.", "1.")
        yield made


@pytest.fixture
def cri(newer: PodLab) -> Iterator[CriClient]:
    before = Leftovers(newer)
    yield newer.host.cri
    newer.host.clear()
    before.assert_none()


@pytest.mark.parametrize(
    ("handler", "tag"), [("kata-qemu", "named"), (CONFIDENTIAL, "encrypted"), ("offline", "encrypted")]
)
def test_a_pods_life(newer: PodLab, cri: CriClient, handler: str, tag: str) -> None:
    pod = cri.run_pod(handler, newer.host.logs, annotations={HANDLER: handler})
    container = cri.run(pod, newer.image(tag), "sh", "-c", "echo canary; echo oops >&2; sleep 100000")
    assert cri.status(container).state == RUNNING
    assert cri.exec(container, "sh", "-c", "cat; echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")
    assert cri.read(container, "id", "-un") == ("web\n" if tag == "named" else "root\n")
    assert cri.read(container, "cat", "/etc/marker") == f"{newer.marker}\n"
    assert wait_for_log(pod, "canary") == "canary\n"
    assert log(pod, stream="stderr") == "oops\n"
    assert_kept_from_the_host(newer)
    second = cri.run(pod, newer.image("plain"), "httpd", "-f", "-p", "80", "-h", "/www", name="second")
    assert fetch(cri.pod_ip(pod)) == f"page of {newer.marker}\n"
    cri.stop(second, grace=0)
    assert (cri.status(second).state, cri.status(second).exit_code) == (EXITED, 137)
    cri.remove(second)
    newer.host.restart()
    assert cri.read(container, "echo", "here") == "here\n"
    cri.stop_pod(pod.id)
    assert cri.pod_status(pod).state == NOT_READY
    cri.remove_pod(pod.id)


def test_why_there_is_no_pod(newer: PodLab, cri: CriClient) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        cri.run_pod("wrong-offline", newer.host.logs)
    assert "fw digest not valid" in str(caught.value.details())


def test_containers_by_hand(newer: PodLab, cri: CriClient) -> None:
    cri.pull(newer.image("plain"))
    config = f"{newer.host.directory}/kata/kata-qemu.toml"
    runtime = ("--runtime", "io.containerd.kata-qemu.v2", "--runtime-config-path", config)
    words = ("--namespace", "k8s.io", "run", "--rm", "--snapshotter", "sealpod", *runtime)
    ctr = os.path.join(os.path.dirname(newer.host.program), "ctr")
    script = "cat /etc/marker; exit 5"
    done = newer.host.ctr(*words, newer.image("plain"), "once", "sh", "-c", script, program=ctr)
    assert (done.returncode, done.stdout) == (5, f"{newer.marker}\n"), done.stderr

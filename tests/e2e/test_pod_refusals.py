# SPDX-License-Identifier: Apache-2.0
"""What somebody sees who only sees a pod's events: why there is no pod, and what its owner has forbidden.

The texts are those of containerd's answers, which kubelet shows in `kubectl describe pod`.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from criclient import CriClient, Pod, fetch, log
from podimages import PodLab

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("nothing_left")]
SLEEP = ("sleep", "100000")


@pytest.fixture
def cri(pods: PodLab) -> CriClient:
    return pods.host.cri


@pytest.mark.parametrize(
    ("handler", "parts"),
    [
        (
            "halting",
            (
                "booting the guest failed: the guest's firmware halted: ",
                "its kernel, initrd or command line is not the measured one",
                "; restore the files that were measured",
                "[launch.firmware-halted]",
            ),
        ),
        (
            "no-agent",
            (
                "booting the guest failed: the guest ended while it started",
                "(console: ",
                "sealpod: floor",
                "; see the guest's console [launch.ended]",
            ),
        ),
        ("no-kernel", ("starting the guest failed: QEMU did not start", "kernel", "[launch.qemu]")),
        (
            "wrong-offline",
            ("asking the key broker for the secret failed: ", "fw digest not valid", "[policy.digest]"),
        ),
    ],
)
def test_why_there_is_no_pod(pods: PodLab, cri: CriClient, handler: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        cri.run_pod(handler, pods.host.logs)
    text = str(caught.value.details())
    assert "failed to create shim task: " in text
    assert [part for part in parts if part not in text] == [], text
    assert "\n" not in text


def test_signatures_that_cannot_be_verified_are_no_reason_to_run(pods: PodLab, cri: CriClient) -> None:
    pod = cri.run_pod("signed", pods.host.logs)
    with pytest.raises(grpc.RpcError) as caught:
        cri.run(pod, pods.image("plain"), *SLEEP)
    text = str(caught.value.details())
    assert "verifying signatures is not supported yet" in text
    assert "[image.signatures-unsupported]" in text


@pytest.fixture
def closed(pods: PodLab) -> Pod:
    """A pod whose measured settings forbid exec, reading of output, and copying."""
    return pods.host.cri.run_pod("closed", pods.host.logs, name="closed-0")


def test_an_owner_can_keep_the_host_out(pods: PodLab, cri: CriClient, closed: Pod, tmp_path: Path) -> None:
    words = tmp_path / "pods/1/containers/app/0123abcd"
    words.parent.mkdir(parents=True)
    words.touch()
    server = cri.run(closed, pods.image("plain"), *("httpd", "-f", "-p", "80", "-h", "/etc"), name="server")
    with pytest.raises(grpc.RpcError) as caught:
        cri.exec(server, "true")
    assert "ExecProcessRequest is blocked" in str(caught.value)
    # More than any pipe or terminal holds, and nobody reads it: it must not stand in the container's way.
    for name, tty, size in (("pipes", False, 3_000_000), ("terminal", True, 300_000)):
        script = f"yes | head -c {size}; yes | head -c {size} >&2; echo why > /dev/termination-log; exit 4"
        mounts = {"/dev/termination-log": str(words)}
        talker = cri.run(closed, pods.image("plain"), "sh", "-c", script, name=name, tty=tty, mounts=mounts)
        assert cri.wait_for_exit(talker).exit_code == 4
        assert log(closed, name) == log(closed, name, "stderr") == ""
    assert words.read_bytes() == b""
    # Names and name service are the guest's own.
    assert fetch(f"{cri.pod_ip(closed)}", "hostname") == "closed-0\n"
    assert "127.0.0.1 localhost" in fetch(f"{cri.pod_ip(closed)}", "hosts")
    with pytest.raises(grpc.RpcError) as caught:
        cri.run(closed, pods.image("plain"), *SLEEP, name="files", mounts={"/settings": str(tmp_path)})
    assert "lets no files be brought into the guest, and /settings needs some" in str(caught.value)
    assert "[shim.copy-blocked]" in str(caught.value)

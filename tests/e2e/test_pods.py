# SPDX-License-Identifier: Apache-2.0
"""Pods on a real containerd, driven as kubelet drives it; every container runs in a guest.

What needs no guest of its own shares ``web``, a plain pod: the agent and the shim are the same for all kinds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cnikit
import grpc
import pytest
from criclient import (
    CREATED,
    CRI,
    EXITED,
    NOT_READY,
    READY,
    RUNNING,
    CriClient,
    Pod,
    fetch,
    log,
    wait_for_log,
)
from podimages import CONFIDENTIAL, MEMORY, PodLab
from sitefiles import assert_kept_from_the_host

pytestmark = pytest.mark.e2e
SLEEP = ("sleep", "100000")
SERVE = ("httpd", "-f", "-p", "80", "-h", "/www")
KINDS = [("kata-qemu", "plain"), (CONFIDENTIAL, "encrypted"), ("offline", "encrypted"), ("es", "encrypted")]
MIB = 1 << 20
BIDIRECTIONAL = 2  # of CRI's MountPropagation


@pytest.fixture
def cri(pods: PodLab) -> CriClient:
    return pods.host.cri


@pytest.fixture(scope="module")
def web(pods: PodLab) -> Iterator[Pod]:
    """A plain pod whose container ``web`` serves its page."""
    cri = pods.host.cri
    pod = cri.run_pod("kata-qemu", pods.host.logs, name="web-0")
    cri.run(pod, pods.image("plain"), *SERVE, name="web")
    yield pod
    cri.end_pod(pod)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("handler", "tag"), KINDS, ids=["plain", "online", "offline", "es"])
def test_a_pods_life(pods: PodLab, cri: CriClient, handler: str, tag: str) -> None:
    image = pods.image(tag)
    pod = cri.run_pod(handler, pods.host.logs)
    assert cri.pod_status(pod).state == READY
    cri.pull(image, pod)
    assert cri.has_image(image)
    container = cri.create(pod, image, "sh", "-c", "echo canary; echo oops >&2; sleep 100000")
    assert cri.status(container).state == CREATED
    cri.start(container)
    assert cri.status(container).state == RUNNING
    assert cri.exec(container, "sh", "-c", "cat; echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")
    assert cri.read(container, "cat", "/etc/marker") == f"{pods.marker}\n"
    assert wait_for_log(pod, "canary") == "canary\n"
    assert log(pod, stream="stderr") == "oops\n"
    assert_kept_from_the_host(pods)
    second = cri.create(pod, image, "sh", "-c", "exit 3", name="second")
    cri.start(second)
    ended = cri.wait_for_exit(second)
    assert (ended.exit_code, ended.reason) == (3, "Error")
    cri.remove(second)
    cri.stop(container, grace=0)
    assert (cri.status(container).state, cri.status(container).exit_code) == (EXITED, 137)
    assert cri.pod_status(pod).state == READY
    cri.stop_pod(pod.id)
    assert cri.pod_status(pod).state == NOT_READY
    cri.remove_pod(pod.id)
    assert pod.id not in cri.pods()
    assert container not in cri.containers()


def test_a_pod_answers_at_its_address(pods: PodLab, cri: CriClient, web: Pod) -> None:
    assert fetch(cri.pod_ip(web)) == f"page of {pods.marker}\n"


def test_pods_reach_each_other(pods: PodLab, cri: CriClient, web: Pod) -> None:
    pod = cri.run_pod("kata", pods.host.logs)
    container = cri.run(pod, pods.image("plain"), *SLEEP)
    page = cri.read(container, "wget", "-q", "-O-", f"http://{cri.pod_ip(web)}/")
    assert page == f"page of {pods.marker}\n"
    assert cri.pod_ip(pod) in cri.read(container, "ip", "address")
    cri.end_pod(pod)


def test_a_port_of_the_host_leads_to_the_pod(pods: PodLab, cri: CriClient) -> None:
    if why := cnikit.portmap_missing():
        pytest.skip(why)
    port = CRI.new("Port", container_port=80, host_port=18000 + os.getpid() % 2000)
    pod = cri.run_pod("kata-qemu", pods.host.logs, ports=[port])
    cri.run(pod, pods.image("plain"), *SERVE)
    assert fetch(f"{pods.host.network.gateway}:{port.host_port}") == f"page of {pods.marker}\n"
    cri.end_pod(pod)


def test_containers_of_a_pod_share_what_pods_share(pods: PodLab, cri: CriClient, web: Pod) -> None:
    names = ("ipc", "uts", "net", "pid", "mnt")
    spaces = []
    for name in ("two", "three"):
        container = cri.run(web, pods.image("plain"), *SLEEP, name=name)
        links = "; ".join(f"readlink /proc/self/ns/{space}" for space in names)
        found = cri.read(container, "sh", "-c", links).split()
        spaces.append(dict(zip(names, found, strict=True)))
        assert cri.read(container, "wget", "-q", "-O-", "http://localhost/") == f"page of {pods.marker}\n"
        assert cri.read(container, "hostname") == "web-0\n"
    two, three = spaces
    assert [name for name in names if two[name] == three[name]] == ["ipc", "uts", "net"]


def test_a_pod_may_share_its_processes(pods: PodLab, cri: CriClient) -> None:
    pod = cri.run_pod("kata-qemu", pods.host.logs, share_pids=True)
    cri.run(pod, pods.image("plain"), "sleep", "4242", name="one", share_pids=True)
    two = cri.run(pod, pods.image("plain"), "sleep", "2424", name="two", share_pids=True)
    shown = cri.read(two, "ps")
    assert "sleep 4242" in shown
    assert "sleep 2424" in shown
    assert "sleep" not in next(line for line in shown.splitlines() if line.split()[0] == "1")
    cri.end_pod(pod)


def test_a_pod_of_the_nodes_own_kind(pods: PodLab, cri: CriClient) -> None:
    """Privileged and on the host's network, as a node's daemons ask for it: all that is the guest's."""
    pod = cri.run_pod("kata-qemu", pods.host.logs, host_network=True, privileged=True)
    container = cri.run(pod, pods.image("plain"), *SLEEP, security={"privileged": True})
    # kubelet gives it no name, and containerd a file with the node's.
    assert cri.read(container, "hostname") == f"{socket.gethostname()}\n"
    assert cri.read(container, "cat", "/etc/hostname") == f"{socket.gethostname()}\n"
    for command in (
        "mount -t tmpfs x /mnt",
        "mkdir /sys/fs/cgroup/below",
        "echo 1 > /proc/sys/vm/swappiness",
    ):
        assert cri.read(container, "sh", "-c", command) == ""
    shown = cri.read(container, "cat", "/proc/mounts").splitlines()
    assert next(line for line in shown if " /sys " in line).split()[3].startswith("rw,")
    devices = cri.read(container, "sh", "-c", "ls /dev").split()
    assert not {name for name in devices if name.startswith(("loop", "vd", "vport", "kvm", "mem"))}
    cri.end_pod(pod)


def test_an_image_says_what_runs(pods: PodLab, cri: CriClient, web: Pod) -> None:
    container = cri.run(web, pods.image("plain"), name="image")
    assert cri.wait_for_exit(container).exit_code == 0
    assert wait_for_log(web, pods.marker, "image") == f"{pods.marker}\n"


def test_a_process_is_what_the_pod_says(pods: PodLab, cri: CriClient, web: Pod) -> None:
    container = cri.run(
        web,
        pods.image("plain"),
        *SLEEP,
        name="process",
        env={"GIVEN": "by the pod", "OF_IMAGE": "changed"},
        working_dir="/www",
        security={
            "run_as_user": CRI.new("Int64", value=1000),
            "run_as_group": CRI.new("Int64", value=1000),
            "supplemental_groups": [4321],
            "readonly_rootfs": True,
            "no_new_privs": True,
            "capabilities": CRI.new("Capabilities", drop_capabilities=["ALL"]),
        },
    )
    assert cri.read(container, "id") == "uid=1000(web) gid=1000(web) groups=1000(web),4321\n"
    assert cri.read(container, "pwd") == "/www\n"
    environment = cri.read(container, "env").splitlines()
    assert "GIVEN=by the pod" in environment
    assert "OF_IMAGE=changed" in environment
    assert cri.exec(container, "touch", "/www/file")[0] != 0
    status = cri.read(container, "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    limits = cri.read(container, "cat", "/proc/1/limits")
    assert re.search(r"^Max open files +1048576 +1048576 ", limits, re.MULTILINE)
    assert re.search(r"^Max processes +unlimited +unlimited ", limits, re.MULTILINE)


def test_users_by_name_are_those_of_the_image(pods: PodLab, cri: CriClient, web: Pod) -> None:
    """The host knows no more than the name; who that is stands in the image's own files, in the guest."""
    named = cri.run(web, pods.image("named"), *SLEEP, name="named")
    ids = "uid=1000(web) gid=1000(web)"
    assert cri.read(named, "id") == f"{ids} groups=1000(web)\n"
    assert (
        cri.read(named, "sh", "-c", "cat /proc/1/environ | tr '\\0' '\\n' | grep HOME") == "HOME=/home/web\n"
    )
    root = cri.run(web, pods.image("root"), *SLEEP, name="root", security={"readonly_rootfs": True})
    assert cri.read(root, "id", "-u") == "0\n"
    # The volume the image declares is as the image has it, and can be written to.
    page = cri.read(root, "sh", "-c", "echo more >> /www/index.html; cat /www/index.html")
    assert page == f"page of {pods.marker}\nmore\n"
    assert cri.exec(root, "touch", "/file")[0] != 0
    # As kubelet asks for it.
    security = {"run_as_username": "web", "supplemental_groups": [4321]}
    asked = cri.run(web, pods.image("named"), *SLEEP, name="asked", security=security)
    assert cri.read(asked, "id") == f"{ids} groups=1000(web),4321\n"


def test_a_terminal_is_one(pods: PodLab, cri: CriClient, web: Pod) -> None:
    container = cri.run(web, pods.image("plain"), "sh", "-c", "tty; echo done", name="terminal", tty=True)
    assert cri.wait_for_exit(container).exit_code == 0
    assert "/dev/" in wait_for_log(web, "done", "terminal")


def test_directories_are_brought_in_and_followed(
    pods: PodLab, cri: CriClient, web: Pod, tmp_path: Path
) -> None:
    volume = tmp_path / "kubernetes.io~configmap/settings"
    volume.mkdir(parents=True)

    def publish(revision: str, text: str) -> None:
        """As kubelet does: a directory for each revision, and a link that is switched."""
        (volume / revision).mkdir()
        (volume / revision / "key").write_text(text)
        (volume / "..new").symlink_to(revision)
        os.replace(volume / "..new", volume / "..data")

    publish("..1", "first")
    (volume / "..1/dropped").write_text("to go")
    for name in ("key", "dropped"):
        (volume / name).symlink_to(f"..data/{name}")
    secret = tmp_path / "token"
    secret.write_text("one file")
    mounts = {"/etc/settings": str(volume), "/run/token": str(secret)}
    container = cri.run(web, pods.image("plain"), *SLEEP, name="volumes", mounts=mounts)
    assert cri.read(container, "cat", "/etc/settings/key", "/run/token") == "firstone file"
    assert cri.read(container, "cat", "/etc/settings/dropped") == "to go"
    publish("..2", "second")
    (volume / "dropped").unlink()
    shutil.rmtree(volume / "..1")
    deadline = time.monotonic() + 30
    while cri.read(container, "cat", "/etc/settings/key") != "second":
        assert time.monotonic() < deadline, "the change never arrived"
        time.sleep(0.2)
    # A key that is no more is no more there either.
    assert cri.read(container, "ls", "-A", "/etc/settings") == "..2\n..data\nkey\n"


def test_mounts_for_the_node_are_refused(pods: PodLab, cri: CriClient, web: Pod, tmp_path: Path) -> None:
    """``mountPropagation: Bidirectional``, as drivers of volumes ask for it."""
    mounts = {"/driver": str(tmp_path)}
    cnikit.run("mount", "--bind", "--make-shared", str(tmp_path), str(tmp_path))
    try:
        with pytest.raises(grpc.RpcError) as caught:
            cri.run(web, pods.image("plain"), *SLEEP, name="driver", mounts=mounts, propagation=BIDIRECTIONAL)
    finally:
        cnikit.run("umount", str(tmp_path))
    assert "would not be seen on the node" in str(caught.value)
    assert "[shim.volume]" in str(caught.value)


def test_last_words_come_back(pods: PodLab, cri: CriClient, web: Pod, tmp_path: Path) -> None:
    """kubelet's terminationMessagePath: a file for each run, read once the container has ended."""

    def last_words(number: int, place: str, script: str) -> bytes:
        file = tmp_path / f"pods/{web.id}/containers/app/{number:08x}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o666)
        mounts = {place: str(file)}
        container = cri.run(
            web, pods.image("plain"), "sh", "-c", script, name=f"words{number}", mounts=mounts
        )
        assert cri.wait_for_exit(container).exit_code == 3
        return file.read_bytes()

    usual = "/dev/termination-log"
    assert (
        last_words(1, usual, f"echo first > {usual}; echo out of luck > {usual}; exit 3") == b"out of luck\n"
    )
    assert last_words(2, "/run/why", "seq 100000 > /run/why; exit 3").endswith(b"99999\n100000\n")
    assert last_words(3, usual, "exit 3") == b""


def test_init_and_restarted_containers(pods: PodLab, cri: CriClient, tmp_path: Path) -> None:
    """One after the other in one pod, as kubelet runs them; what each leaves, the next finds."""
    scratch = tmp_path / "volumes/kubernetes.io~empty-dir/scratch"
    scratch.mkdir(parents=True)
    mounts = {"/scratch": str(scratch)}
    pod = cri.run_pod("kata-qemu", pods.host.logs, limits={"memory_limit_in_bytes": 300 * MIB})
    for number in range(2):
        init = cri.run(
            pod,
            pods.image("plain"),
            "sh",
            "-c",
            f"echo init{number} >> /scratch/log",
            name=f"init{number}",
            mounts=mounts,
        )
        assert cri.wait_for_exit(init).exit_code == 0
    script = "echo run >> /scratch/log; cat /scratch/log; exit $(wc -l < /scratch/log)"
    for attempt in range(3):
        container = cri.run(
            pod, pods.image("plain"), "sh", "-c", script, name="app", attempt=attempt, mounts=mounts
        )
        assert cri.wait_for_exit(container).exit_code == 3 + attempt
        cri.remove(container)
    assert wait_for_log(pod, "run\n" * 3, "app").endswith("init0\ninit1\nrun\nrun\nrun\n")
    sleeper = cri.run(pod, pods.image("plain"), *SLEEP, name="sleeper")
    # The machine has the pod's memory on top of its own.
    total = int(cri.read(sleeper, "grep", "MemTotal", "/proc/meminfo").split()[1]) // 1024
    assert MEMORY < total < MEMORY + 300
    # The guest's clock is the host's, and its kernel's random numbers are seeded: else this would wait.
    assert abs(int(cri.read(sleeper, "date", "+%s")) - time.time()) < 10
    assert cri.read(sleeper, "sh", "-c", "head -c 16 /dev/random | wc -c") == "16\n"
    cri.end_pod(pod)


def test_empty_directories_are_the_pods(pods: PodLab, cri: CriClient, web: Pod, tmp_path: Path) -> None:
    directory = tmp_path / "volumes/kubernetes.io~empty-dir/scratch"
    memory = tmp_path / "volumes/kubernetes.io~empty-dir/fast"
    part = tmp_path / "pods/1/volume-subpaths/fast/writer/0"
    for path in (directory, memory, part):
        path.mkdir(parents=True)
    cnikit.run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(memory))
    (memory / "part").mkdir()
    cnikit.run("mount", "--bind", str(memory / "part"), str(part))
    os.chown(directory, -1, 4321)  # as kubelet does it for a pod's fsGroup
    try:
        mounts = {"/scratch": str(directory), "/fast": str(memory), "/part": str(part)}
        script = "echo disk > /scratch/file; echo memory > /part/file"
        writer = cri.run(web, pods.image("plain"), "sh", "-c", script, name="writer", mounts=mounts)
        assert cri.wait_for_exit(writer).exit_code == 0
        mounts = {"/scratch": str(directory), "/dev/shm": str(memory)}
        reader = cri.run(web, pods.image("plain"), *SLEEP, name="reader", mounts=mounts)
        assert cri.read(reader, "cat", "/scratch/file", "/dev/shm/part/file") == "disk\nmemory\n"
        assert cri.read(reader, "stat", "-c", "%g", "/scratch/file") == "4321\n"
        assert cri.read(reader, "stat", "-c", "%a", "/dev/shm") == "1777\n"
        shown = cri.read(reader, "grep", " /dev/shm ", "/proc/mounts").split()
        assert (shown[2], "size=8192k" in shown[3].split(",")) == ("tmpfs", True)
    finally:
        for path in (part, memory):
            cnikit.run("umount", str(path))
    assert not list(directory.iterdir())


def test_too_much_memory_is_told_as_such(pods: PodLab, cri: CriClient, web: Pod) -> None:
    hog = cri.run(
        web,
        pods.image("plain"),
        *("sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1"),
        name="hog",
        limits={"memory_limit_in_bytes": 32 * MIB},
    )
    ended = cri.wait_for_exit(hog)
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")


def test_limits_hold_and_can_be_changed(pods: PodLab, cri: CriClient, web: Pod) -> None:
    limits = {"memory_limit_in_bytes": 64 * MIB, "cpu_period": 100000, "cpu_quota": 50000}
    group = {"unified": {"memory.oom.group": "1"}}
    container = cri.run(web, pods.image("plain"), *SLEEP, name="limits", limits={**limits, **group})
    assert cri.read(container, "cat", "/sys/fs/cgroup/memory.oom.group") == "1\n"
    files = [f"/sys/fs/cgroup/{name}" for name in ("memory.max", "cpu.max")]
    assert cri.read(container, "cat", *files) == f"{64 * MIB}\n50000 100000\n"
    cri.update(container, memory_limit_in_bytes=96 * MIB, cpu_period=100000, cpu_quota=20000)
    assert cri.read(container, "cat", *files) == f"{96 * MIB}\n20000 100000\n"
    before = cri.stats(container)
    assert before.memory.working_set_bytes.value > 0
    cri.read(container, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    after = cri.stats(container)
    assert after.cpu.usage_core_nano_seconds.value > before.cpu.usage_core_nano_seconds.value


def test_the_nodes_operator_sees_a_pod(pods: PodLab, web: Pod) -> None:
    def sandbox(*words: str) -> str:
        command = [sys.executable, "-m", "sealpod.cli.main", "sandbox", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=pods.host.environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert web.id[:13] in sandbox("ls")
    shown = json.loads(sandbox("inspect", web.id, "-o", "json"))
    assert (shown["id"], shown["pod"], shown["state"]) == (web.id, "default/web-0", "running")
    assert "sealpod" in sandbox("console", web.id)
    assert sandbox("metrics", web.id)


def test_a_program_that_is_not_there_is_named(pods: PodLab, cri: CriClient, web: Pod) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        cri.run(web, pods.image("plain"), "/no/such/program", name="absent")
    assert "/no/such/program" in str(caught.value)


def differences(pods: PodLab, reference: str, found: str) -> set[str]:
    """The parts that ``sealpod measure explain`` names."""
    words = ("measure", "explain", reference, found, "-o", "json")
    command = [sys.executable, "-m", "sealpod.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=pods.host.environment, check=False)
    assert done.returncode in (0, 3), done.stderr
    return {each["part"] for each in json.loads(done.stdout)["differences"]}


@pytest.mark.usefixtures("nothing_left")
def test_annotations_can_leave_attestation_out(pods: PodLab, cri: CriClient, tmp_path: Path) -> None:
    prefix = "io.katacontainers.config"
    annotations = {f"{prefix}.pre_attestation.enabled": "false", f"{prefix}.sev.policy": "1"}
    pod = cri.run_pod(CONFIDENTIAL, pods.host.logs, annotations=annotations)
    record = json.loads(Path(pods.host.run, "sandboxes", pod.id, "sandbox.json").read_text())
    assert (record["platform"], record["kbc"], record["launchId"]) == ("model", "none", "")
    container = cri.run(pod, pods.image("plain"), *SLEEP)
    assert cri.read(container, "cat", "/etc/marker") == f"{pods.marker}\n"
    with pytest.raises(grpc.RpcError):
        cri.run(pod, pods.image("encrypted"), *SLEEP, name="encrypted")
    # What an owner foretells is what runs; without the annotations the policy is another.
    manifest = {"kind": "Pod", "metadata": {"annotations": annotations}, "spec": {"containers": []}}
    (tmp_path / "pod.yaml").write_text(json.dumps(manifest))
    foretold = f"files:--kata-config {pods.host.directory}/kata/{CONFIDENTIAL}.toml"
    running = f"sandbox:{pod.id[:13]}"
    assert differences(pods, f"{foretold} --pod {tmp_path}/pod.yaml", running) == set()
    assert differences(pods, foretold, running) == {"policy"}
    cri.end_pod(pod)


@pytest.mark.usefixtures("nothing_left")
def test_a_guest_that_is_not_the_measured_one_does_not_start(pods: PodLab, cri: CriClient) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        cri.run_pod("wrong-offline", pods.host.logs)
    assert "fw digest not valid" in str(caught.value)
    assert "[policy.digest]" in str(caught.value)


@pytest.mark.usefixtures("nothing_left")
def test_a_guest_that_is_not_the_measured_one_gets_no_key(pods: PodLab, cri: CriClient) -> None:
    pod = cri.run_pod("wrong-online", pods.host.logs)
    with pytest.raises(grpc.RpcError) as caught:
        cri.run(pod, pods.image("encrypted"), *SLEEP)
    assert "fw digest not valid" in str(caught.value)
    cri.end_pod(pod)


@pytest.mark.usefixtures("nothing_left")
def test_a_key_the_broker_does_not_have_is_named(pods: PodLab, cri: CriClient) -> None:
    pod = cri.run_pod("offline", pods.host.logs)
    with pytest.raises(grpc.RpcError) as caught:
        cri.run(pod, pods.image("nobody"), *SLEEP)
    assert "nobody" in str(caught.value)
    cri.end_pod(pod)

# SPDX-License-Identifier: Apache-2.0
"""The pod of a guest through the agent's calls: namespaces, volumes, copied files, kernel parameters."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sealpod.wire.agentapi import TERMINATION_LOG
from sealpod.wire.pb import agent_pb2

if TYPE_CHECKING:
    from conftest import Guest  # type: ignore[import-not-found]

SHELL = ("/bin/sh", "-c")
DIRECTORY, FILE, LINK = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o640, stat.S_IFLNK | 0o777
EVERYBODY = 0o1777


@pytest.fixture(scope="module")
def pod(guest: Guest) -> Guest:
    shm = agent_pb2.Storage(
        driver="ephemeral",
        source="shm",
        fstype="tmpfs",
        options=["noexec", "nosuid", "nodev", "mode=1777", "size=1048576"],
        mount_point=str(guest.root / "sandbox/shm"),
    )
    guest.client.call(
        "CreateSandbox",
        agent_pb2.CreateSandboxRequest(
            hostname="a-pod", sandbox_id="s1", storages=[shm], dns=["nameserver 1::"]
        ),
    )
    return guest


def shared(guest: Guest, name: str = "") -> str:
    return str(guest.root / "shared" / "containers" / name)


def run(guest: Guest, name: str, script: str, **changes: Any) -> tuple[int, str]:
    """A shell script in a container with mounts, storages and more: status and output."""
    request = guest.create_request(name, [*SHELL, script])
    for destination, source, *options in changes.get("binds", ()):
        request.OCI.Mounts.add(
            destination=destination, source=source, type="bind", options=["rbind", *options]
        )
    request.storages.extend(changes.get("storages", ()))
    request.OCI.Linux.Sysctl.update(changes.get("sysctl", {}))
    request.sandbox_pidns = changes.get("pidns", False)
    guest.client.call("CreateContainer", request)
    guest.created.append(name)
    guest.start(name)
    output = guest.output(name).decode()
    return guest.wait(name), output


def copy(guest: Guest, path: str, data: bytes, mode: int = FILE, **more: Any) -> None:
    size = more.pop("file_size", len(data))
    request = agent_pb2.CopyFileRequest(path=path, data=data, file_mode=mode, file_size=size, **more)
    guest.client.call("CopyFile", request)


def test_a_second_pod_is_refused(pod: Guest) -> None:
    response = pod.client.refused("CreateSandbox", agent_pb2.CreateSandboxRequest())
    assert response.message.endswith("[sandbox.exists]")


def test_names_and_files(pod: Guest) -> None:
    script = (
        "read name < /proc/sys/kernel/hostname; echo $name; cat /etc/hostname /etc/resolv.conf /etc/hosts"
    )
    status, output = run(pod, "names", script)
    assert status == 0
    assert output.startswith("a-pod\na-pod\nnameserver 1::\n127.0.0.1 localhost\n")


def test_ipc_and_uts_are_the_pods(pod: Guest) -> None:
    def handles(name: str) -> list[str]:
        pod.client.call("CreateContainer", pod.create_request(name, ["/bin/sleep", "1000"]))
        pod.created.append(name)
        (pid,) = (pid for pid in os.listdir("/proc") if pid.isdigit() and _root(pid, pod, name))
        return [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("ipc", "uts", "pid", "mnt")]

    first, second = handles("one"), handles("two")
    assert first[:2] == second[:2]
    assert set(first[2:]).isdisjoint(second[2:])
    assert os.readlink(f"/proc/{pod.process.pid}/ns/ipc") != first[0]


def _root(pid: str, guest: Guest, name: str) -> bool:
    """Whether the process's root file system is the container's."""
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as file:
            first = file.readline()
    except OSError:
        return False
    return f"upperdir={guest.root}/{name}/upper" in first


def test_shared_memory(pod: Guest) -> None:
    assert run(pod, "shm1", "echo hello > /dev/shm/note") == (0, "")
    assert run(pod, "shm2", "cat /dev/shm/note") == (0, "hello\n")


def test_a_file_in_chunks(pod: Guest) -> None:
    path = shared(pod, "c-0000-config")
    copy(pod, path, b"one ", file_size=8, offset=0, uid=5, gid=6)
    assert not os.path.exists(inside(pod, path))
    copy(pod, path, b"two\n", file_size=8, offset=4, uid=5, gid=6)
    status = os.stat(inside(pod, path))
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, 5, 6)
    assert run(
        pod, "reads", "cat /etc/config; echo x > /etc/config", binds=[("/etc/config", path, "ro")]
    ) == (
        2,
        "one two\n",
    )
    assert os.listdir(inside(pod, str(pod.root / "shared" / "incoming"))) == []


def inside(guest: Guest, path: str) -> str:
    return f"/proc/{guest.process.pid}/root{path}"


def test_a_volume_changes_its_version_at_once(pod: Guest) -> None:
    """The kubelet's layout: files are links through ..data, which is renamed to the next version."""
    volume = shared(pod, "c-1111-settings")
    copy(pod, volume, b"", DIRECTORY)
    copy(pod, f"{volume}/..v1/key", b"old\n", dir_mode=0o755)
    copy(pod, f"{volume}/..data", b"..v1", LINK)
    copy(pod, f"{volume}/key", b"..data/key", LINK)
    request = pod.create_request("version", [*SHELL, "cat /v/key; read go; cat /v/key; echo /v/..v*"])
    request.OCI.Mounts.add(destination="/v", source=volume, type="bind", options=["rbind", "ro"])
    pod.client.call("CreateContainer", request)
    pod.created.append("version")
    pod.start("version")
    first = agent_pb2.ReadStreamResponse()
    asked = agent_pb2.ReadStreamRequest(container_id="version", exec_id="version", len=4)
    assert pod.client.call("ReadStdout", asked, first).data == b"old\n"
    copy(pod, f"{volume}/..v2/key", b"new\n")
    copy(pod, f"{volume}/..data", b"..v2", LINK)
    go = agent_pb2.WriteStreamRequest(container_id="version", exec_id="version", data=b"go\n")
    pod.client.call("WriteStdin", go)
    assert pod.output("version") == b"new\n/v/..v2\n"


def test_what_a_volume_no_longer_has_is_gone(pod: Guest) -> None:
    """The kubelet removes its links to removed keys; others' links, and those to kept keys, stay."""
    volume = shared(pod, "c-2222-settings")
    copy(pod, f"{volume}/..v1/kept", b"1")
    copy(pod, f"{volume}/..v1/dropped", b"1")
    copy(pod, f"{volume}/..v1/sub/dropped", b"1")
    copy(pod, f"{volume}/..data", b"..v1", LINK)
    for name in ("kept", "dropped", "sub"):
        copy(pod, f"{volume}/{name}", f"..data/{name}".encode(), LINK)
    copy(pod, f"{volume}/elsewhere", b"nowhere", LINK)
    place = inside(pod, volume)
    copy(pod, f"{volume}/..v2/kept", b"2")
    copy(pod, f"{volume}/early", b"..data/early", LINK)
    copy(pod, f"{volume}/..v2/early", b"2")
    copy(pod, f"{volume}/..data", b"..v2", LINK)
    assert sorted(os.listdir(place)) == ["..data", "..v2", "early", "elsewhere", "kept"]
    # What was removed may come again.
    copy(pod, f"{volume}/..v3/dropped", b"3")
    copy(pod, f"{volume}/dropped", b"..data/dropped", LINK)
    copy(pod, f"{volume}/..data", b"..v3", LINK)
    assert sorted(os.listdir(place)) == ["..data", "..v3", "dropped", "elsewhere"]


WORDS = "/dev/termination-log"


def last_words(guest: Guest, name: str, size: int = 0) -> agent_pb2.ReadStreamResponse:
    request = agent_pb2.ReadStreamRequest(container_id=name, exec_id=name, len=size)
    answer = agent_pb2.ReadStreamResponse()
    guest.client.call("ReadTerminationMessage", request, answer)
    return answer


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (f"echo why > {WORDS}", b"why\n"),
        ("exit 3", b""),
        (f"i=0; while [ $i -lt 1000 ]; do echo 1234567; i=$((i+1)); done > {WORDS}", b"1234567\n" * 512),
    ],
)
def test_last_words_can_be_read_after_the_end(pod: Guest, script: str, expected: bytes) -> None:
    name = f"words{len(expected)}"
    path = shared(pod, f"{name}-0000-file")
    copy(pod, path, b"", FILE)
    request = pod.create_request(name, [*SHELL, script])
    request.OCI.Mounts.add(destination=WORDS, source=path, type="bind", options=["rbind"])
    request.OCI.Annotations[TERMINATION_LOG] = WORDS
    pod.client.call("CreateContainer", request)
    pod.created.append(name)
    pod.start(name)
    pod.wait(name)
    assert last_words(pod, name).data == expected
    assert last_words(pod, name, 3).data == expected[-3:]


@pytest.mark.parametrize("annotation", ["", "/etc/passwd", "/elsewhere"])
def test_no_other_file_is_read(pod: Guest, annotation: str) -> None:
    name = f"nowords{len(annotation)}"
    request = pod.create_request(name, ["/bin/sleep", "0"])
    if annotation:
        request.OCI.Annotations[TERMINATION_LOG] = annotation
    pod.client.call("CreateContainer", request)
    pod.created.append(name)
    asked = agent_pb2.ReadStreamRequest(container_id=name, exec_id=name)
    assert pod.client.refused("ReadTerminationMessage", asked).message.endswith("[container.message]")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/etc/passwd", "sandbox.path"),
        ("{shared}", "sandbox.path"),
        ("{shared}/../x", "sandbox.path"),
        ("{shared}/a/../../x", "sandbox.path"),
        ("relative", "sandbox.path"),
        ("{shared}/way-out/x", "sandbox.path"),
        ("{shared}/" + "n" * 300, "copyfile.write"),
    ],
)
def test_files_stay_where_they_belong(pod: Guest, path: str, code: str) -> None:
    if not os.path.lexists(inside(pod, shared(pod, "way-out"))):
        copy(pod, shared(pod, "way-out"), b"/etc", LINK)
    path = path.replace("{shared}", shared(pod).rstrip("/"))
    request = agent_pb2.CopyFileRequest(path=path, data=b"x", file_size=1, file_mode=FILE)
    assert pod.client.refused("CopyFile", request).message.endswith(f"[{code}]")


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 1, "file_size": 4},
        {"offset": -1},
        {"file_size": 2},
        {"file_size": 1 << 40},
        {"uid": -1},
        {"file_mode": stat.S_IFCHR | 0o600},
        {"file_mode": LINK, "data": b""},
        {"file_mode": LINK, "data": b"a\0b"},
    ],
)
def test_chunks_that_make_no_sense(pod: Guest, change: dict[str, Any]) -> None:
    values = {"path": shared(pod, "odd"), "data": b"abc", "file_size": 3, "file_mode": FILE, **change}
    assert "[copyfile." in pod.client.refused("CopyFile", agent_pb2.CopyFileRequest(**values)).message


def volume(guest: Guest, driver: str, place: str, *options: str, **more: Any) -> agent_pb2.Storage:
    return agent_pb2.Storage(driver=driver, mount_point=str(guest.root / place), options=options, **more)


def test_volumes_are_shared_and_outlive_their_containers(pod: Guest) -> None:
    memory = volume(pod, "ephemeral", "sandbox/ephemeral/cache", "size=65536", "fsgid=77")
    plain = volume(pod, "local", "shared/containers/s1/rootfs/local/data", "mode=0777")
    binds = [("/cache", memory.mount_point), ("/data", plain.mount_point)]
    script = "echo kept > /data/file; echo kept > /cache/file"
    assert run(pod, "writes", script, storages=[memory, plain], binds=binds) == (0, "")
    pod.remove("writes")
    assert run(pod, "finds", "cat /data/file /cache/file", storages=[memory, plain], binds=binds) == (
        0,
        "kept\nkept\n",
    )
    status = os.stat(inside(pod, memory.mount_point))
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (77, 0o2775)
    assert stat.S_IMODE(os.stat(inside(pod, plain.mount_point)).st_mode) == 0o777


@pytest.mark.parametrize(
    ("driver", "place", "more"),
    [
        ("blk", "sandbox/x", {}),
        ("ephemeral", "shared/containers/x", {}),
        ("ephemeral", "sandbox/../x", {}),
        ("ephemeral", "sandbox/huge", {"fstype": "hugetlbfs"}),
        ("ephemeral", "sandbox/mode", {"options": ["mode=9"]}),
        ("local", "sandbox/x", {}),
        ("local", "image/x", {}),
        ("bind", "sandbox/bound", {"source": "/etc"}),
    ],
)
def test_volumes_that_cannot_be(pod: Guest, driver: str, place: str, more: dict[str, Any]) -> None:
    request = pod.create_request("novolume", ["/bin/sleep", "0"])
    request.storages.add(driver=driver, mount_point=str(pod.root / place), **more)
    message = pod.client.refused("CreateContainer", request).message
    assert "[container.storage]" in message or "[sandbox.path]" in message


def test_a_link_in_a_volume_leads_nowhere_else(pod: Guest) -> None:
    """One container plants a link; neither mounting through it nor making a volume behind it works."""
    data = volume(pod, "local", "shared/containers/trap", "mode=0777")
    programs = "while read a; do :; done < /dev/null"
    run(pod, "plants", programs, storages=[data], binds=[("/data", data.mount_point)])
    os.symlink("/etc", inside(pod, f"{data.mount_point}/etc"))
    os.symlink("../../../..", inside(pod, f"{data.mount_point}/up"))
    for source in ("etc", "etc/passwd", "up", "up/bin"):
        request = pod.create_request("victim", ["/bin/sleep", "0"])
        request.OCI.Mounts.add(destination="/x", source=f"{data.mount_point}/{source}", type="bind")
        assert pod.client.refused("CreateContainer", request).message.endswith("[sandbox.path]")
    request = pod.create_request("victim", ["/bin/sleep", "0"])
    request.storages.append(volume(pod, "local", "shared/containers/trap/etc/new"))
    assert pod.client.refused("CreateContainer", request).message.endswith("[sandbox.path]")
    assert not os.path.exists("/etc/new")


def test_removing_a_container_leaves_its_volumes_contents(pod: Guest) -> None:
    data = volume(pod, "local", "shared/containers/stays", "mode=0777")
    run(pod, "leaver", "echo x > /data/file", storages=[data], binds=[("/data", data.mount_point)])
    pod.remove("leaver")
    assert os.listdir(inside(pod, data.mount_point)) == ["file"]
    with open(f"/proc/{pod.process.pid}/mounts", encoding="utf-8") as file:
        assert "leaver" not in file.read()


def test_a_removed_container_gives_its_memory_back(pod: Guest) -> None:
    """Of one that is started anew for ever, nothing may pile up: neither images nor copied files."""
    images = inside(pod, str(pod.root / "image"))
    before = sorted(os.listdir(images)), sorted(os.listdir(inside(pod, shared(pod))))
    for name in ("crash", "crash-loop"):
        copy(pod, shared(pod, f"{name}-0a1b2c3d-hosts"), b"hosts\n")
        copy(pod, shared(pod, f"{name}-0a1b2c3e-token/..v1/token"), b"secret")
        copy(pod, shared(pod, f"{name}-0a1b2c3e-token/..data"), b"..v1", LINK)
        copy(pod, shared(pod, f"{name}-0a1b2c3f-half"), b"ha", file_size=4)
    assert run(pod, "crash", "exit 3", binds=[("/hosts", shared(pod, "crash-0a1b2c3d-hosts"))])[0] == 3
    pod.remove("crash")
    left = [name for name in os.listdir(inside(pod, shared(pod))) if name.startswith("crash")]
    assert sorted(left) == ["crash-loop-0a1b2c3d-hosts", "crash-loop-0a1b2c3e-token"]
    # One whose creation fails, and one the host gives up before it.
    request = pod.create_request("crash-loop", ["/bin/sleep", "0"])
    request.OCI.Mounts.add(destination="/x", source="/etc", type="bind")
    assert pod.client.refused("CreateContainer", request).message.endswith("[sandbox.path]")
    assert before == (sorted(os.listdir(images)), sorted(os.listdir(inside(pod, shared(pod)))))
    assert os.listdir(inside(pod, str(pod.root / "shared/incoming"))) == []
    copy(pod, shared(pod, "given-up-0a1b2c3d-hosts"), b"hosts\n")
    remove = agent_pb2.RemoveContainerRequest(container_id="given-up")
    assert pod.client.refused("RemoveContainer", remove).message.endswith("[container.unknown]")
    assert before[1] == sorted(os.listdir(inside(pod, shared(pod))))


def test_a_directory_of_a_volume_is_made_when_it_is_asked_for(pod: Guest) -> None:
    plain = volume(pod, "local", "shared/containers/s1/rootfs/local/sub", "mode=0777", "fsgid=88")
    binds = [("/part", f"{plain.mount_point}/a/b")]
    assert run(pod, "sub1", "echo kept > /part/file", storages=[plain], binds=binds) == (0, "")
    status = os.stat(inside(pod, f"{plain.mount_point}/a/b"))
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (88, 0o2777)
    whole = [("/whole", plain.mount_point), *binds]
    assert run(pod, "sub2", "cat /whole/a/b/file /part/file", storages=[plain], binds=whole) == (
        0,
        "kept\nkept\n",
    )
    request = pod.create_request("sub3", ["/bin/sleep", "0"])
    request.OCI.Mounts.add(destination="/x", source=shared(pod, "no-volume/part"), type="bind")
    assert pod.client.refused("CreateContainer", request).message.endswith("[sandbox.path]")


def test_an_images_volume_is_its_own_directory_and_writable(pod: Guest) -> None:
    request = pod.create_request("image-volume", [*SHELL, "cat /etc/which; echo x > /etc/n; echo y > /new/n"])
    request.OCI.Root.Readonly = True
    for place in ("/etc", "/new/deep", "/new"):
        source = str(pod.root / "image-volume/rootfs") + place
        request.OCI.Mounts.add(destination=place, source=source, type="bind", options=["rbind", "rw"])
    pod.client.call("CreateContainer", request)
    pod.created.append("image-volume")
    pod.start("image-volume")
    assert (pod.output("image-volume"), pod.wait("image-volume")) == (b"top\n", 0)
    # It is nowhere else, and no other container's.
    for source in ("/etc", "/etc/../bin"):
        odd = pod.create_request("odd", ["/bin/sleep", "0"])
        odd.OCI.Mounts.add(destination="/bin", source=f"{pod.root}/odd/rootfs{source}", type="bind")
        assert pod.client.refused("CreateContainer", odd).message.endswith("[container.spec]")
    other = pod.create_request("other-image", ["/bin/sleep", "0"])
    other.OCI.Mounts.add(destination="/x", source=str(pod.root / "image-volume/rootfs/etc"), type="bind")
    assert pod.client.refused("CreateContainer", other).message.endswith("[sandbox.path]")


def test_kernel_parameters_of_the_pods_ipc(pod: Guest) -> None:
    script = "cat /proc/sys/kernel/shmmax /proc/sys/fs/mqueue/msg_max"
    sysctl = {"kernel.shmmax": "12345678", "fs.mqueue.msg_max": "11"}
    assert run(pod, "sysctl", script, sysctl=sysctl) == (0, "12345678\n11\n")
    with open("/proc/sys/kernel/shmmax", encoding="ascii") as file:
        assert file.read() != "12345678\n"


@pytest.mark.parametrize(
    "name", ["kernel.hostname", "vm.swappiness", "net./../vm.x", "net", "kernel.shm/../x", "kernel.semx"]
)
def test_other_kernel_parameters_are_refused(pod: Guest, name: str) -> None:
    request = pod.create_request("bad-sysctl", ["/bin/sleep", "0"])
    request.OCI.Linux.Sysctl[name] = "1"
    assert "[container.sysctl]" in pod.client.refused("CreateContainer", request).message


@pytest.mark.skipif(not shutil.which("catatonit"), reason="needs catatonit")
def test_process_ids_are_shared_on_request(pod: Guest) -> None:
    script = "cat /proc/1/comm; echo $$; echo /proc/1/root/*"
    # A volume where the holder's bundle would be found if volumes could be in its way.
    taken = volume(pod, "ephemeral", "sandbox/holder", "mode=0777")
    assert run(
        pod, "pids0", "echo mine > /it/config.json", storages=[taken], binds=[("/it", taken.mount_point)]
    )
    status, output = run(pod, "pids1", script, pidns=True)
    assert Path(inside(pod, f"{taken.mount_point}/config.json")).read_text() == "mine\n"
    assert (status, output.splitlines()[0]) == (0, "pause")
    assert output.splitlines()[-1] == "/proc/1/root/*"  # not to be looked into
    again = run(pod, "pids2", script, pidns=True)[1]
    assert int(again.splitlines()[1]) > int(output.splitlines()[1]) > 1
    assert run(pod, "pids3", "echo $$") == (0, "1\n")

# SPDX-License-Identifier: Apache-2.0
"""Containers through the agent's calls, with real crun and overlay mounts.

Left out: cgroup limits and device rules, which need the guest's own cgroup hierarchy (end-to-end tests).
"""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest

from sealpod.wire.pb import agent_pb2, oci_pb2
from sealpod.wire.ttrpc import Response

if TYPE_CHECKING:
    from conftest import Guest  # type: ignore[import-not-found]

SHELL = ("/bin/sh", "-c")
TRAP = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.1; done"


def inside(guest: Guest, path: str) -> str:
    """A path as the guest's own mounts show it."""
    return f"/proc/{guest.process.pid}/root{path}"


def read(guest: Guest, name: str, method: str = "ReadStdout", size: int = 32768) -> Future[Response]:
    request = agent_pb2.ReadStreamRequest(container_id=name, exec_id=name, len=size)
    return guest.client.send(method, request)


def first_output(guest: Guest, name: str) -> bytes:
    response = read(guest, name).result(60)
    assert response.code == 0
    return bytes(agent_pb2.ReadStreamResponse.FromString(response.payload).data)


def kill(guest: Guest, name: str, number: int, exec_id: str | None = None) -> None:
    who = name if exec_id is None else exec_id
    request = agent_pb2.SignalProcessRequest(container_id=name, exec_id=who, signal=number)
    guest.client.call("SignalProcess", request)


def test_the_images_own_command_runs(guest: Guest) -> None:
    assert guest.run("own") == (0, b"hello\n", b"")


def test_arguments_environment_and_directory(guest: Guest) -> None:
    status, out, err = guest.run(
        "asked", *SHELL, 'echo "$FROM $ADDED $PWD"; cat which; echo bad >&2; exit 7', Env=["ADDED=host"]
    )
    assert (status, out, err) == (7, b"image host /etc\ntop\n", b"bad\n")


def test_the_root_directory_is_one_if_a_whole_process_says_so(guest: Guest) -> None:
    assert guest.run("unknown", *SHELL, "pwd", Cwd="/")[1] == b"/etc\n"
    whole = oci_pb2.LinuxCapabilities(Bounding=["CAP_KILL"])
    assert guest.run("known", *SHELL, "pwd", Cwd="/", Capabilities=whole)[1] == b"/\n"


def test_the_environment_of_the_agent_stays_out(guest: Guest) -> None:
    _, out, _ = guest.run("env", *SHELL, "export")
    names = {line.split("=")[0].removeprefix("export ") for line in out.decode().splitlines()}
    assert names <= {"PATH", "FROM", "HOME", "PWD", "OLDPWD", "SHLVL", "_"}


def test_secure_defaults(guest: Guest) -> None:
    script = "cat /proc/self/status; echo /sys/firmware/*; cat /proc/kcore; "
    script += "echo x > /proc/sys/kernel/hostname && echo written; echo process $$"
    status, out, _ = guest.run("secure", *SHELL, script)
    lines = out.decode().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status == 0
    assert fields["CapBnd"] == fields["CapEff"] == "00000000a80425fb"  # Docker's set
    assert fields["CapInh"] == fields["CapAmb"] == "0000000000000000"
    assert fields["NoNewPrivs"] == "1"
    assert lines[-2:] == ["/sys/firmware/*", "process 1"]


def test_another_user_has_no_capabilities(guest: Guest) -> None:
    request = guest.create_request("user", [*SHELL, "cat /proc/self/status"])
    request.string_user.uid = "user"
    guest.client.call("CreateContainer", request)
    guest.created.append("user")
    guest.start("user")
    fields = dict(line.split(":\t", 1) for line in guest.output("user").decode().splitlines())
    assert fields["Uid"].split() == ["1000"] * 4
    assert fields["CapEff"] == fields["CapPrm"] == "0000000000000000"
    assert guest.wait("user") == 0


def test_numbers_of_user_and_group(guest: Guest) -> None:
    status, out, _ = guest.run(
        "ids", *SHELL, "cat /proc/self/status", User=oci_pb2.User(UID=12, GID=34, AdditionalGids=[56])
    )
    fields = dict(line.split(":\t", 1) for line in out.decode().splitlines())
    assert (fields["Uid"].split()[0], fields["Gid"].split()[0], fields["Groups"].strip()) == (
        "12",
        "34",
        "56",
    )
    assert status == 0


def test_a_user_by_name_is_the_images(guest: Guest) -> None:
    """The host gives the name; numbers, group and home are those of the image's own files."""
    request = guest.create_request("by-name", [*SHELL, "cat /proc/self/status; echo $HOME"])
    request.string_user.CopyFrom(agent_pb2.StringUser(uid="user", additionalGids=["7"]))
    guest.client.call("CreateContainer", request)
    guest.created.append("by-name")
    guest.start("by-name")
    lines = guest.output("by-name").decode().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert (fields["Uid"].split()[0], fields["Gid"].split()[0]) == ("1000", "1000")
    assert fields["Groups"].split() == ["7", "77", "1000"]
    assert lines[-1] == "/home"
    request = guest.create_request("nobody", ["/bin/sleep", "0"])
    request.string_user.uid = "nobody-knows"
    assert guest.client.refused("CreateContainer", request).message.endswith("[image.user]")


def test_a_user_by_number_is_the_images_too(guest: Guest) -> None:
    """Whom the host knows only by number has the image's groups, and so have processes beside."""
    user = agent_pb2.StringUser(uid="1000", additionalGids=["7"])
    request = guest.create_request(
        "by-number", [*SHELL, "while read line; do echo $line; done < /proc/self/status; exec sleep 100"]
    )
    request.string_user.CopyFrom(user)
    guest.client.call("CreateContainer", request)
    guest.created.append("by-number")
    guest.start("by-number")
    process = oci_pb2.Process(Args=["/bin/cat", "/proc/self/status"])
    beside = agent_pb2.ExecProcessRequest(
        container_id="by-number", exec_id="beside", process=process, string_user=user
    )
    guest.client.call("ExecProcess", beside)
    for exec_id in ("by-number", "beside"):
        text = b""
        asked = agent_pb2.ReadStreamRequest(container_id="by-number", exec_id=exec_id, len=32768)
        while b"Groups" not in text or not text.endswith(b"\n"):
            answer = guest.client.call("ReadStdout", asked, agent_pb2.ReadStreamResponse())
            text += answer.data
        fields = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
        assert (fields["Uid"].split()[0], fields["Gid"].split()[0]) == ("1000", "1000")
        assert fields["Groups"].split() == ["7", "77", "1000"]
    # Another user than the container's is the image's as well.
    root = guest.create_request("root", [*SHELL, "exec sleep 100"])
    guest.client.call("CreateContainer", root)
    guest.created.append("root")
    guest.start("root")
    beside.container_id = "root"
    guest.client.call("ExecProcess", beside)
    asked = agent_pb2.ReadStreamRequest(container_id="root", exec_id="beside", len=32768)
    answer = guest.client.call("ReadStdout", asked, agent_pb2.ReadStreamResponse())
    fields = dict(line.split(":", 1) for line in answer.data.decode().splitlines() if ":" in line)
    assert (fields["Gid"].split()[0], fields["Groups"].split()) == ("1000", ["7", "77", "1000"])
    for name in ("by-number", "root"):
        guest.remove(name)


def test_layers_are_not_written(guest: Guest) -> None:
    script = "echo new > /etc/which; cat /etc/which; echo > /bin/cat"
    assert guest.run("writer", *SHELL, script)[:2] == (0, b"new\n")
    assert guest.run("reader", "/bin/cat", "/etc/which")[:2] == (0, b"top\n")


def test_a_read_only_root(guest: Guest) -> None:
    request = guest.create_request("frozen", [*SHELL, "echo x > /etc/which || echo refused"])
    request.OCI.Root.Readonly = True
    guest.client.call("CreateContainer", request)
    guest.created.append("frozen")
    guest.start("frozen")
    assert guest.output("frozen") == b"refused\n"


def test_names_and_files_of_the_pod(guest: Guest) -> None:
    guest.client.call(
        "CreateSandbox",
        agent_pb2.CreateSandboxRequest(dns=["nameserver 10.0.2.3", "# comment", "bad\nline"]),
    )
    _, out, _ = guest.run("pod", "/bin/cat", "/etc/resolv.conf", "/etc/hosts")
    assert out.startswith(b"nameserver 10.0.2.3\n127.0.0.1 localhost\n")


def test_waiting_before_the_start(guest: Guest) -> None:
    guest.create("early", *SHELL, "exit 3")
    request = agent_pb2.WaitProcessRequest(container_id="early", exec_id="early")
    waiting = [guest.client.send("WaitProcess", request) for _ in range(3)]
    output = read(guest, "early")
    assert not any(future.done() for future in waiting)
    guest.start("early")
    for future in waiting:
        assert agent_pb2.WaitProcessResponse.FromString(future.result(60).payload).status == 3
    assert output.result(60).message == "read meet eof [stream.eof]"
    assert guest.wait("early") == 3  # and again later


def test_a_signal_with_a_handler(guest: Guest) -> None:
    guest.create("trap", *SHELL, TRAP)
    guest.start("trap")
    assert first_output(guest, "trap") == b"ready\n"
    kill(guest, "trap", signal.SIGTERM)
    assert guest.wait("trap") == 5
    assert guest.output("trap") == b"caught\n"
    kill(guest, "trap", signal.SIGTERM)  # an ended process is no error


def test_sigterm_without_a_handler_ends_the_first_process(guest: Guest) -> None:
    guest.create("sleeper", "/bin/sleep", "1000")
    guest.start("sleeper")
    kill(guest, "sleeper", signal.SIGTERM)
    assert guest.wait("sleeper") == 128 + signal.SIGKILL


def test_sigterm_that_is_ignored_is(guest: Guest) -> None:
    guest.create("stubborn", *SHELL, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    guest.start("stubborn")
    assert first_output(guest, "stubborn") == b"ready\n"
    kill(guest, "stubborn", signal.SIGTERM)
    process = oci_pb2.Process(Args=["/bin/cat", "/dev/null"])
    beside = agent_pb2.ExecProcessRequest(container_id="stubborn", exec_id="alive", process=process)
    guest.client.call("ExecProcess", beside)
    kill(guest, "stubborn", signal.SIGKILL)
    assert guest.wait("stubborn") == 137


def test_killing_before_the_start(guest: Guest) -> None:
    guest.create("unborn", "/bin/sleep", "1000")
    kill(guest, "unborn", signal.SIGKILL)
    assert guest.wait("unborn") == 137
    response = guest.client.refused("StartContainer", agent_pb2.StartContainerRequest(container_id="unborn"))
    assert "[container.state]" in response.message


def test_input_and_its_end(guest: Guest) -> None:
    guest.create("cat", "/bin/cat")
    guest.start("cat")
    for word in (b"one ", b"two\n"):
        request = agent_pb2.WriteStreamRequest(container_id="cat", exec_id="cat", data=word)
        assert guest.client.call("WriteStdin", request, agent_pb2.WriteStreamResponse()).len == 4
    guest.client.call("CloseStdin", agent_pb2.CloseStdinRequest(container_id="cat", exec_id="cat"))
    assert guest.output("cat") == b"one two\n"
    assert guest.wait("cat") == 0
    late = agent_pb2.WriteStreamRequest(container_id="cat", exec_id="cat", data=b"x")
    assert "[stream.closed]" in guest.client.refused("WriteStdin", late).message


def test_output_waits_in_the_pipe_until_it_is_read(guest: Guest) -> None:
    """Back-pressure: far more than a pipe holds arrives whole and in order, in pieces of the asked size."""
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    guest.create("flood", *SHELL, script)
    guest.start("flood")
    waiting = guest.client.send(
        "WaitProcess", agent_pb2.WaitProcessRequest(container_id="flood", exec_id="flood")
    )
    data = first_output(guest, "flood")
    assert not waiting.done()
    while not (response := read(guest, "flood", size=5000).result(60)).code:
        piece = agent_pb2.ReadStreamResponse.FromString(response.payload).data
        assert 0 < len(piece) <= 5000
        data += piece
    assert data == b"".join(b"line %d\n" % number for number in range(20000))
    assert waiting.result(60).code == 0


def test_removing_a_running_container_leaves_nothing(guest: Guest) -> None:
    guest.create("gone", *SHELL, "sleep 1000 & sleep 1000")
    guest.start("gone")
    waiting = guest.client.send("WaitProcess", agent_pb2.WaitProcessRequest(container_id="gone"))
    reading = read(guest, "gone")
    guest.remove("gone")
    assert agent_pb2.WaitProcessResponse.FromString(waiting.result(60).payload).status == 137
    assert reading.result(60).code != 0
    assert not os.path.exists(inside(guest, str(guest.root / "gone")))
    assert str(guest.root / "gone") not in mounts(guest)
    assert not os.path.exists(inside(guest, str(guest.root / "crun" / "gone")))
    response = guest.client.refused("WaitProcess", agent_pb2.WaitProcessRequest(container_id="gone"))
    assert "[container.unknown]" in response.message
    guest.create("gone", "/bin/sleep", "0")  # the name is free again


def mounts(guest: Guest) -> str:
    with open(f"/proc/{guest.process.pid}/mounts", encoding="utf-8") as file:
        return file.read()


def descriptors(guest: Guest) -> int:
    return len(os.listdir(f"/proc/{guest.process.pid}/fd"))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda r: setattr(r, "container_id", "../x"), "container.id"),
        (lambda r: setattr(r, "container_id", "image"), "container.id"),
        (lambda r: setattr(r, "container_id", ""), "container.id"),
        (lambda r: r.ClearField("storages"), "container.storage"),
        (lambda r: setattr(r.storages[0], "driver", "blk"), "container.storage"),
        (lambda r: setattr(r.storages[0], "mount_point", "/etc"), "container.storage"),
        (lambda r: setattr(r.storages[0], "source", "registry.example/none"), "image.not-found"),
        (lambda r: setattr(r.storages[0], "source", "NOT A NAME"), "image.reference"),
        (lambda r: r.OCI.Mounts.add(destination="/x", source="/", type="bind"), "sandbox.path"),
        (lambda r: r.OCI.Mounts.add(destination="/x", source="/etc", type="sysfs"), "container.spec"),
        (lambda r: r.OCI.Linux.Sysctl.update({"kernel.core_pattern": "|/x"}), "container.sysctl"),
        (lambda r: r.string_user.additionalGids.append("wheel"), "container.spec"),
        (lambda r: r.OCI.Linux.Namespaces.add(Type="pid", Path="/proc/1/ns/pid"), "container.spec"),
        (lambda r: r.OCI.Process.Args.__setitem__(0, "/bin/none"), "container.command-not-found"),
        (lambda r: setattr(r.string_user, "uid", "nobody"), "image.user"),
    ],
)
def test_refused_creations_leave_nothing(guest: Guest, change: object, code: str) -> None:
    before = (mounts(guest), descriptors(guest))
    request = guest.create_request("refused", ["/bin/sleep", "0"])
    change(request)  # type: ignore[operator]
    response = guest.client.refused("CreateContainer", request)
    assert response.message.endswith(f"[{code}]")
    assert (mounts(guest), descriptors(guest)) == before
    assert not os.path.exists(inside(guest, str(guest.root / "refused")))
    guest.create("refused", "/bin/sleep", "0")
    guest.remove("refused")


def test_the_same_id_twice(guest: Guest) -> None:
    guest.create("twice", "/bin/sleep", "0")
    response = guest.client.refused("CreateContainer", guest.create_request("twice", ["/bin/sleep", "0"]))
    assert (response.code, response.message.endswith("[container.exists]")) == (6, True)
    guest.start("twice")
    again = guest.client.refused("StartContainer", agent_pb2.StartContainerRequest(container_id="twice"))
    assert again.message.endswith("[container.state]")


def test_seccomp_of_the_request(guest: Guest) -> None:
    request = guest.create_request("filtered", [*SHELL, "echo x > /tmp/file; echo done"])
    seccomp = request.OCI.Linux.Seccomp
    seccomp.DefaultAction = "SCMP_ACT_ALLOW"
    rule = seccomp.Syscalls.add(Names=["getppid"], Action="SCMP_ACT_ERRNO")
    rule.errnoret = 38
    guest.client.call("CreateContainer", request)
    guest.created.append("filtered")
    guest.start("filtered")
    assert guest.output("filtered") == b"done\n"


def test_many_containers_at_once(guest: Guest) -> None:
    names = [f"many{number}" for number in range(6)]
    creating = [
        guest.client.send("CreateContainer", guest.create_request(name, [*SHELL, f"exit {number}"]))
        for number, name in enumerate(names)
    ]
    for name, future in zip(names, creating, strict=True):
        assert future.result(60).code == 0
        guest.created.append(name)
    for name in names:
        guest.start(name)
    assert [guest.wait(name) for name in names] == list(range(6))


def test_no_descriptor_is_lost(guest: Guest) -> None:
    guest.run("warm", "/bin/sleep", "0")
    guest.remove("warm")
    before = descriptors(guest)
    for _ in range(3):
        guest.run("cold", "/bin/sleep", "0")
        guest.remove("cold")
    assert descriptors(guest) == before


def test_no_zombie_is_left(guest: Guest) -> None:
    children = []
    for thread in os.listdir(f"/proc/{guest.process.pid}/task"):
        # The agent has a thread per call; one may have ended since it was listed.
        with (
            contextlib.suppress(FileNotFoundError),
            open(f"/proc/{guest.process.pid}/task/{thread}/children", encoding="ascii") as file,
        ):
            children += file.read().split()
    states = []
    for child in children:
        with open(f"/proc/{child}/stat", encoding="utf-8") as file:
            states.append(file.read().rpartition(")")[2].split()[0])
    assert "Z" not in states


def test_removing_twice_at_once(guest: Guest) -> None:
    guest.create("both", "/bin/sleep", "1000")
    guest.start("both")
    request = agent_pb2.RemoveContainerRequest(container_id="both")
    answers = [guest.client.send("RemoveContainer", request) for _ in range(4)]
    guest.created.remove("both")
    for answer in answers:
        response = answer.result(60)
        assert response.code == 0 or "[container.unknown]" in response.message
    assert guest.run("after", "/bin/sleep", "0")[0] == 0

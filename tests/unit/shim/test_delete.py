# SPDX-License-Identifier: Apache-2.0
"""``delete``: after happy ends, dead shims and hanging ones, and whatever of a bundle is left."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest

from sealpod.sandbox import state
from sealpod.shim import bundle, delete
from sealpod.shim.arguments import Arguments
from sealpod.shim.main import main
from sealpod.wire.taskapi import MESSAGES, TASK
from sealpod.wire.ttrpc import Frame, FrameDecoder, Request

MEMBER = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod1"}
SLEEP = "import sys, time; print('up', flush=True); time.sleep(600)"


class Home:
    """One pod's bundle, socket and state."""

    def __init__(self, directory: str) -> None:
        self.bundle = os.path.join(directory, "bundle")
        self.sockets = os.path.join(directory, "s")
        os.makedirs(os.path.join(self.bundle, "rootfs"))
        os.mkdir(self.sockets)

    @property
    def socket(self) -> str:
        return bundle.socket_path("/run/c.sock", "k8s.io", "pod1")

    def configure(self, annotations: dict[str, str]) -> None:
        with open(os.path.join(self.bundle, "config.json"), "w", encoding="ascii") as file:
            json.dump({"annotations": annotations}, file)

    def write_pid(self, pid: int) -> None:
        with open(os.path.join(self.bundle, "shim.pid"), "w", encoding="ascii") as file:
            file.write(str(pid))

    def listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.socket)
        listener.listen()
        return listener

    def delete(self, own: str = "pod1") -> bytes:
        arguments = Arguments("delete", "k8s.io", own, "/run/c.sock", bundle=self.bundle)
        return delete.delete(arguments)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="sh") as directory:
        home = Home(directory)
        monkeypatch.setenv("SEALPOD_SHIM_SOCKETS", home.sockets)
        monkeypatch.setenv(state.ENVIRONMENT, os.path.join(directory, "run"))
        yield home


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process whose command line looks as the fixture's parameter says."""
    words = getattr(request, "param", ["sealpod.shim", "-id", "pod1"])
    child = subprocess.Popen([sys.executable, "-c", SLEEP, *words], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def answer_once(listener: socket.socket, asked: list[bytes]) -> threading.Thread:
    """Answer one call, with whatever."""

    def run() -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(4096))
            connection.sendall(bytes.fromhex("0000000000000001" + "0200"))

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_the_answer_says_killed_and_when(home: Home) -> None:
    home.configure({})
    before = int(time.time())
    answer = MESSAGES.decode("DeleteResponse", home.delete())
    assert (answer.pid, answer.exit_status) == (0, 137)
    assert before <= answer.exited_at.seconds <= time.time()


def test_nothing_is_needed_of_what_was(home: Home) -> None:
    shutil.rmtree(home.bundle)
    shutil.rmtree(home.sockets)
    for _ in range(2):
        assert MESSAGES.decode("DeleteResponse", home.delete()).exit_status == 137


def test_a_dead_shims_pod_is_taken_apart(home: Home, process: subprocess.Popen[str]) -> None:
    home.configure({})
    home.listen().close()
    place = state.SandboxState("pod1")
    place.create()
    place.write({"processes": {"qemu": state.process_record(process.pid)}})
    home.write_pid(2**22 + 1)  # a number the kernel gives to nobody
    home.delete()
    assert process.wait(10) == -9
    assert not os.path.exists(home.socket)
    assert state.sandbox_ids() == []


def test_a_living_shims_pod_is_let_be(home: Home, process: subprocess.Popen[str]) -> None:
    home.configure({})
    home.write_pid(process.pid)
    state.SandboxState("pod1").create()
    with home.listen() as listener:
        asked: list[bytes] = []
        thread = answer_once(listener, asked)
        home.delete()
        thread.join()
    (frame,) = FrameDecoder().feed(asked[0])
    assert isinstance(frame, Frame)
    request = Request.decode(frame.payload)
    # It heeds this when it has no container left.
    assert (request.service, request.method) == (TASK, "Shutdown")
    assert MESSAGES.decode("ShutdownRequest", request.payload).id == "pod1"
    assert process.poll() is None
    assert os.path.exists(home.socket)
    assert state.sandbox_ids() == ["pod1"]


def test_a_members_end_says_nothing_about_the_pod(home: Home, process: subprocess.Popen[str]) -> None:
    home.configure(MEMBER)
    home.write_pid(process.pid)
    state.SandboxState("pod1").create()
    home.listen().close()
    home.delete("member1")
    assert process.poll() is None
    assert os.path.exists(home.socket)
    assert state.sandbox_ids() == ["pod1"]


def test_a_shim_that_hangs_is_killed(home: Home, process: subprocess.Popen[str]) -> None:
    home.write_pid(process.pid)
    delete.end_process(os.path.join(home.bundle, "shim.pid"), "pod1", 0.05)
    assert process.wait(10) == -9


def test_a_shim_on_its_way_out_is_waited_for(home: Home, process: subprocess.Popen[str]) -> None:
    home.write_pid(process.pid)
    threading.Timer(0.02, process.terminate).start()
    delete.end_process(os.path.join(home.bundle, "shim.pid"), "pod1", 30)
    assert process.wait(10) == -15


def test_a_socket_that_takes_and_never_answers_is_not_serving(home: Home) -> None:
    with home.listen():
        assert not delete.is_serving(home.socket, "pod1", 0.05)
    assert not delete.is_serving(home.socket, "pod1", 0.05)


@pytest.mark.parametrize(
    "process", [["sealpod.shim", "-id", "pod2"], ["other", "-id", "pod1"]], indirect=True
)
def test_a_process_that_is_not_the_pods_shim_is_let_be(home: Home, process: subprocess.Popen[str]) -> None:
    home.configure({})
    home.write_pid(process.pid)
    home.delete()
    assert process.poll() is None


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "99999999999999999999"])
def test_a_pid_file_that_is_none_is_let_be(home: Home, text: str) -> None:
    home.configure({})
    with open(os.path.join(home.bundle, "shim.pid"), "w", encoding="ascii") as file:
        file.write(text)
    home.delete()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.parametrize("kind", [["-t", "tmpfs", "none"], ["--bind", "/"]], ids=["tmpfs", "bind"])
def test_mounts_on_the_rootfs_are_taken_off(home: Home, kind: list[str]) -> None:
    home.configure(MEMBER)
    target = os.path.join(home.bundle, "rootfs")
    for _ in range(2):
        subprocess.run(["mount", *kind, target], check=True)
    home.delete("member1")
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        assert target not in mounts.read()
    os.rmdir(target)


def test_the_program_prints_the_answer_and_nothing_else(
    home: Home, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    home.configure({})
    words = f"-namespace k8s.io -address /run/c.sock -id pod1 -bundle {home.bundle} delete".split()
    assert main("containerd-shim-kata-v2", words) == 0
    printed = capsysbinary.readouterr()
    assert printed.err == b""
    assert MESSAGES.decode("DeleteResponse", printed.out).exit_status == 137


def test_the_pod_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("containerd-shim-kata-v2", ["delete"]) == 1
    assert capsys.readouterr().err == "sealpod: delete needs -id\n"

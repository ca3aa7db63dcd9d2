# SPDX-License-Identifier: Apache-2.0
"""A guest stand-in per module, with an image made of this machine's own shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sealpod.wire.pb import agent_pb2, oci_pb2

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode does not
from client import Client

CRUN = "/usr/bin/crun"
IMAGE = "registry.example/shell:1"
HERE = Path(__file__).parent


def add_program(layer: Path, program: str) -> None:
    """Copy a program and the libraries it is linked with."""
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in [program, *re.findall(r"(/\S+) \(0x", listing)]:
        target = layer / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def make_image(images: Path) -> None:
    """Two layers: programs below, files above."""
    directory = images / "shell"
    bottom, top = directory / "layers" / "0", directory / "layers" / "1"
    for path in (bottom / "etc", top / "etc", bottom / "tmp"):
        path.mkdir(parents=True)
    (bottom / "tmp").chmod(0o1777)
    for program in ("/bin/sh", "/bin/cat", "/bin/sleep", "/bin/stty"):
        add_program(bottom, program)
    (bottom / "etc" / "which").write_text("bottom\n")
    (top / "etc" / "which").write_text("top\n")
    (top / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
    (top / "etc" / "group").write_text("user:x:1000:\ncrew:x:77:user\n")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/bin:/usr/bin", "FROM=image"],
            "Cmd": ["/bin/sh", "-c", "echo hello"],
            "WorkingDir": "/etc",
        },
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    (directory / "config.json").write_text(json.dumps(config))


@dataclass
class Guest:
    """A running stand-in and what tests ask of it."""

    client: Client
    root: Path
    process: subprocess.Popen[bytes]
    created: list[str] = field(default_factory=list)

    def create_request(
        self, name: str, args: list[str], **process: object
    ) -> agent_pb2.CreateContainerRequest:
        rootfs = str(self.root / name / "rootfs")
        storage = agent_pb2.Storage(
            driver="image_guest_pull", source=IMAGE, fstype="overlay", mount_point=rootfs
        )
        spec = oci_pb2.Spec(Process=oci_pb2.Process(Args=args, **process), Root=oci_pb2.Root(Path=rootfs))  # type: ignore[arg-type]
        return agent_pb2.CreateContainerRequest(container_id=name, exec_id=name, storages=[storage], OCI=spec)

    def create(self, name: str, *args: str, **process: object) -> None:
        self.client.call("CreateContainer", self.create_request(name, list(args), **process))
        self.created.append(name)

    def start(self, name: str) -> None:
        self.client.call("StartContainer", agent_pb2.StartContainerRequest(container_id=name))

    def wait(self, name: str) -> int:
        request = agent_pb2.WaitProcessRequest(container_id=name, exec_id=name)
        return int(self.client.call("WaitProcess", request, agent_pb2.WaitProcessResponse()).status)

    def output(self, name: str, method: str = "ReadStdout") -> bytes:
        """Everything until the end of the stream."""
        request = agent_pb2.ReadStreamRequest(container_id=name, exec_id=name, len=32768)
        data = b""
        while True:
            response = self.client.send(method, request).result(60)
            if response.code:
                assert response.message == "read meet eof [stream.eof]"
                return data
            data += agent_pb2.ReadStreamResponse.FromString(response.payload).data

    def run(self, name: str, *args: str, **process: object) -> tuple[int, bytes, bytes]:
        """A container from creation to its end: status, output, errors."""
        self.create(name, *args, **process)
        self.start(name)
        stdin = agent_pb2.CloseStdinRequest(container_id=name, exec_id=name)
        self.client.call("CloseStdin", stdin)
        out, err = self.output(name), self.output(name, "ReadStderr")
        return self.wait(name), out, err

    def remove(self, name: str) -> None:
        self.created.remove(name)
        self.client.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=name))


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    if os.geteuid() != 0:
        pytest.skip("needs root to make containers")
    if not os.path.exists(CRUN):
        pytest.skip(f"needs {CRUN}")
    base = tmp_path_factory.mktemp("guest")
    images, root = base / "images", base / "run"
    make_image(images)
    root.mkdir()
    ours, theirs = socket.socketpair()
    with ours:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "guest.py"), str(theirs.fileno()), str(root), str(images)],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        guest = Guest(Client(ours), root, process)
        try:
            yield guest
            for name in list(guest.created):
                guest.remove(name)
            guest.client.call("DestroySandbox")
        finally:
            process.kill()
            process.wait()

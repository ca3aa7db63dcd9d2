# SPDX-License-Identifier: Apache-2.0
"""A containerd of its own with sealpod's snapshotter in front of a registry: what a node does with images.

Nothing here boots a guest: pods are runc's, on the host's network, and stand for whatever runtime there is.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from containerd17 import Containerd
from criclient import CriClient
from snapshotkit import Client

START_SECONDS = 60.0
CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{directory}/c.sock"
[proxy_plugins.sealpod]
  type = "snapshot"
  address = "{directory}/s.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{registry}/host/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{directory}"
    conf_dir = "{directory}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    disable_snapshot_annotations = false
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""
RUNTIME = """\
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.guest]
      runtime_type = "io.containerd.runc.v2"
      snapshotter = "sealpod"
"""


class SnapshotNode:
    """containerd and snapshotter below a short directory.

    ``per_runtime``: only pods of the handler ``guest`` use the snapshotter.
    """

    def __init__(self, directory: str, version: Containerd, registry: str, *, per_runtime: bool) -> None:
        self.directory = directory
        self.version = version
        self.registry = registry
        self.socket = f"{directory}/c.sock"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        text = CONFIG.format(
            directory=directory, registry=registry, snapshotter="overlayfs" if per_runtime else "sealpod"
        )
        text += RUNTIME if per_runtime else ""
        Path(f"{directory}/config.toml").write_text(text)
        os.makedirs(f"{directory}/logs")
        os.makedirs(f"{directory}/tmp")
        self.cri = CriClient(self.socket)
        self.snapshots = Client(f"{directory}/s.sock")

    def _start(self, name: str, command: list[str], **streams: int) -> subprocess.Popen[bytes]:
        with open(f"{self.directory}/{name}.log", "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=streams.get("stdout", log),
                stderr=log,
                env={**os.environ, "PATH": self.version.path, "TMPDIR": f"{self.directory}/tmp"},
                start_new_session=True,
            )
        self._processes[name] = process
        return process

    def start_snapshotter(self) -> None:
        """Until it says that it is ready."""
        socket, root = f"{self.directory}/s.sock", f"{self.directory}/sn"
        words = ["snapshotter", "--address", socket, "--root", root, "--host-images", "*/host/*"]
        words += ["--content", f"{self.directory}/root/io.containerd.content.v1.content"]
        command = [sys.executable, "-m", "sealpod.cli.main", *words]
        process = self._start("snapshotter", command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], START_SECONDS)[0], self.log("snapshotter")
        assert process.stdout.readline() == f"snapshotter ready on {socket}\n".encode(), self.log(
            "snapshotter"
        )

    def start_containerd(self) -> None:
        """Until CRI answers."""
        self._start("containerd", [self.version.program, "--config", f"{self.directory}/config.toml"])
        try:
            self.cri.wait_until_ready(START_SECONDS)
        except Exception as error:
            raise RuntimeError(f"containerd is not ready:\n{self.log('containerd')}") from error

    def end(self, name: str, *, kill: bool = False) -> int:
        """End ``containerd`` or ``snapshotter``; its exit status."""
        process = self._processes.pop(name)
        (process.kill if kill else process.terminate)()
        status = process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
        return status

    def close(self) -> None:
        """End everything that runs."""
        self.cri.close()
        self.snapshots.close()
        for name in ("containerd", "snapshotter"):
            if name in self._processes:
                self.end(name)

    def ctr(self, *words: str, namespace: str = "k8s.io") -> subprocess.CompletedProcess[str]:
        """containerd's own client."""
        command = [self.version.ctr, "--address", self.socket, "--namespace", namespace, *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL
        )

    def log(self, name: str) -> str:
        """The end of what a process said."""
        return Path(f"{self.directory}/{name}.log").read_text(errors="replace")[-4000:]

    def blobs(self) -> set[str]:
        """Digests in containerd's content store."""
        store = Path(f"{self.directory}/root/io.containerd.content.v1.content/blobs/sha256")
        return {f"sha256:{path.name}" for path in store.iterdir()} if store.exists() else set()

    def holding(self, marker: bytes) -> list[str]:
        """Files of containerd or the snapshotter with ``marker`` in them."""
        found = []
        for part in ("root", "sn"):
            for directory, _, names in os.walk(f"{self.directory}/{part}"):
                paths = (os.path.join(directory, name) for name in names)
                found += [
                    path for path in paths if os.path.isfile(path) and marker in Path(path).read_bytes()
                ]
        return found

    def pull_again(self, image: str, seconds: float = 60) -> None:
        """Pull after the snapshotter was away: containerd waits a little before it connects anew."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.cri.pull(image)
                return
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def wait_for_snapshots(self, names: int, seconds: float = 30) -> list[str]:
        """The snapshots once there are so many; containerd collects garbage in its own time."""
        deadline = time.monotonic() + seconds
        while len(found := self.snapshots.list()) != names:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found


@contextlib.contextmanager
def snapshot_node(version: Containerd, registry: str, *, per_runtime: bool = False) -> Iterator[SnapshotNode]:
    """A node that runs. Pods, containers and mounts of the test are gone when the block ends."""
    directory = tempfile.mkdtemp(prefix="sn", dir="/tmp")
    node = SnapshotNode(directory, version, registry, per_runtime=per_runtime)
    try:
        node.start_snapshotter()
        node.start_containerd()
        try:
            yield node
        finally:
            for pod in node.cri.pods():
                node.cri.stop_pod(pod)
                node.cri.remove_pod(pod)
    finally:
        node.close()
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            left = [line.split()[1] for line in mounts if line.split()[1].startswith(f"{directory}/")]
        for path in reversed(left):
            subprocess.run(["umount", "--lazy", path], check=False)
        shutil.rmtree(directory, ignore_errors=True)
        assert not left, left

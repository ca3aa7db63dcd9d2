# SPDX-License-Identifier: Apache-2.0
"""A real containerd with a root, state and socket of its own, set up as a node with sealpod's runtimes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from criclient import CriClient

CNI_PLUGINS = ("/usr/lib/cni", "/opt/cni/bin")
HANDLERS = ("kata", "kata-qemu", "kata-qemu-sev")

CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{certs}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""
RUNTIME = """\
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}]
      runtime_type = "io.containerd.{name}.v2"
      privileged_without_host_devices = true
      pod_annotations = ["io.katacontainers.*"]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}.options]
        ConfigPath = "{config}"
"""
PROXY = """\
[proxy_plugins.sealpod]
  type = "snapshot"
  address = "{socket}"
"""


def missing() -> str:
    """What is not installed here; empty when nothing."""
    for program in ("containerd", "runc", "ip", "tc"):
        if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            return program
    if not any(os.path.exists(f"{place}/bridge") for place in CNI_PLUGINS):
        return "the CNI plugins"
    return "" if os.geteuid() == 0 else "root"


class ContainerdHost:
    """One node. ``directory`` is short, because socket paths are."""

    def __init__(self, directory: str, pause: str, registries: list[str], configs: dict[str, str]) -> None:
        self.directory = directory
        self.socket = f"{directory}/c.sock"
        self.run = f"{directory}/run"
        self.logs = f"{directory}/pods"
        self._number = zlib.crc32(directory.encode()) % 200 + 20
        self.bridge = f"sp{self._number}"
        self.gateway = f"10.{self._number}.7.1"
        for name in ("run", "pods", "cni", "certs", "kata", "sn", "s"):
            os.makedirs(f"{directory}/{name}", mode=0o700, exist_ok=True)
        self._configure(pause, registries, configs)
        self._process: subprocess.Popen[bytes] | None = None
        self._snapshotter: subprocess.Popen[bytes] | None = None
        self.cri = CriClient(self.socket)

    def _configure(self, pause: str, registries: list[str], configs: dict[str, str]) -> None:
        parts = [
            CONFIG.format(
                root=f"{self.directory}/root",
                state=f"{self.directory}/state",
                socket=self.socket,
                pause=pause,
                cni_bin=next(place for place in CNI_PLUGINS if os.path.isdir(place)),
                cni_conf=f"{self.directory}/cni",
                certs=f"{self.directory}/certs",
                snapshotter="sealpod",
            )
        ]
        for name in HANDLERS:
            path = f"{self.directory}/kata/{name}.toml"
            Path(path).write_text(configs[name])
            parts.append(RUNTIME.format(name=name, config=path))
        parts.append(PROXY.format(socket=f"{self.directory}/sn.sock"))
        Path(f"{self.directory}/config.toml").write_text("".join(parts))
        for registry in registries:
            place = Path(f"{self.directory}/certs/{registry}")
            place.mkdir()
            (place / "hosts.toml").write_text(f'server = "http://{registry}"\n[host."http://{registry}"]\n')
        Path(f"{self.directory}/cni/10-test.conflist").write_text(json.dumps(self._network()))

    def _network(self) -> dict[str, object]:
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": f"10.{self._number}.7.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": f"{self.directory}/ipam",
        }
        bridge = {"type": "bridge", "bridge": self.bridge, "isGateway": True, "ipam": ipam}
        return {"cniVersion": "0.4.0", "name": f"test{self._number}", "plugins": [bridge]}

    def environment(self) -> dict[str, str]:
        """containerd's, which its shims inherit."""
        bin_directory = os.path.dirname(sys.executable)
        path = f"{bin_directory}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        own = {"PATH": path, "SEALPOD_RUN_DIR": self.run, "SEALPOD_SHIM_SOCKETS": f"{self.directory}/s"}
        return os.environ | own

    def start(self) -> None:
        """Start containerd (and its snapshotter, unless it runs) and wait until CRI answers."""
        if self._snapshotter is None:
            self._start_snapshotter()
        with open(f"{self.directory}/containerd.log", "ab") as log:
            self._process = subprocess.Popen(
                ["containerd", "--config", f"{self.directory}/config.toml"],
                stdout=log,
                stderr=log,
                env=self.environment(),
                start_new_session=True,
            )
        self.cri.wait_until_ready()

    def _start_snapshotter(self) -> None:
        arguments = ["--address", f"{self.directory}/sn.sock", "--root", f"{self.directory}/sn"]
        with open(f"{self.directory}/snapshotter.log", "ab") as log:
            self._snapshotter = subprocess.Popen(
                [sys.executable, "-m", "sealpod.cli.main", "snapshotter", *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._snapshotter.stdout is not None
        assert self._snapshotter.stdout.readline(), "the snapshotter did not start"

    @property
    def pid(self) -> int:
        """containerd's."""
        assert self._process is not None
        return self._process.pid

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End containerd; its shims live on."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def ctr(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """``ctr`` on this containerd."""
        command = ["ctr", "--address", self.socket, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=self.environment(), check=False
        )

    def clear(self) -> None:
        """Stop and remove every pod."""
        for pod in self.cri.pods():
            self.cri.stop_pod(pod)
            self.cri.remove_pod(pod)

    def log(self) -> str:
        """What containerd and its shims said."""
        return Path(f"{self.directory}/containerd.log").read_text(errors="replace")

    def close(self) -> None:
        """End everything and remove the node."""
        if self._process is not None:
            with contextlib.suppress(Exception):
                self.clear()
        self.cri.close()
        self.stop()
        if self._snapshotter is not None:
            self._snapshotter.terminate()
            self._snapshotter.wait(30)
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True, check=False)


@contextlib.contextmanager
def containerd_host(pause: str, registries: list[str], configs: dict[str, str]) -> Iterator[ContainerdHost]:
    """A running node for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="sp", dir="/tmp", ignore_cleanup_errors=True) as directory:
        host = ContainerdHost(directory, pause, registries, configs)
        try:
            host.start()
            yield host
        finally:
            host.close()

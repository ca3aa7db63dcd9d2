# SPDX-License-Identifier: Apache-2.0
"""A real containerd with a root, state and socket of its own, set up as a node with sealpod's runtimes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import cnikit
import podgroups
from criclient import CriClient

CONTAINERD = "containerd"
START_SECONDS = 30.0
PROGRAMS = ("runc", "ip", "tc", "nsenter")

# Tests run wherever root is: no AppArmor profile is loaded, scores stay above the test's own, and a cgroup
# hierarchy without systemd is taken as it is.
CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{directory}/c.sock"
[proxy_plugins.sealpod]
  type = "snapshot"
  address = "{directory}/sn.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{directory}/certs"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    disable_snapshot_annotations = {unannotated}
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""
RUNTIME = """\
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}]
      runtime_type = "io.containerd.{kind}.v2"
      privileged_without_host_devices = true
      pod_annotations = ["io.katacontainers.*"]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}.options]
        ConfigPath = "{config}"
"""
GROUPS = ("/k8s.io", "/default", "/kata_overhead")
"""Control groups of pods that name none, of `ctr run`, and of what is beside pods' own."""
SUBDIRECTORIES = ("run", "pods", "cni", "certs", "kata", "sn", "s", "tmp")


def missing(containerd: str = CONTAINERD) -> str:
    """What is not installed here; empty when nothing."""
    path = f"{os.environ.get('PATH', '')}:{cnikit.SBIN}"
    absent = next((one for one in (containerd, *PROGRAMS) if shutil.which(one, path=path) is None), "")
    if absent or os.geteuid() != 0:
        return absent or "root"
    return "" if cnikit.plugin_directory() else "the CNI plugins"


class ContainerdHost:
    """One node. ``directory`` is short, because socket paths are.

    ``environment`` is containerd's, which its shims inherit. ``handlers`` are runtime handlers: the kind of
    each (``kata-qemu``) and the text of its Kata configuration.
    """

    def __init__(
        self,
        directory: str,
        network: cnikit.Network,
        pause: str,
        environment: Mapping[str, str],
        handlers: Mapping[str, tuple[str, str]],
        *,
        snapshotter: str = "sealpod",
        containerd: str = CONTAINERD,
    ) -> None:
        self.directory = directory
        self.socket = f"{directory}/c.sock"
        self.run = f"{directory}/run"
        self.logs = f"{directory}/pods"
        self.network = network
        self.program = containerd
        self._snapshotter_name = snapshotter
        for name in SUBDIRECTORIES:
            os.makedirs(f"{directory}/{name}", mode=0o700, exist_ok=True)
        self.environment = {
            **environment,
            "PATH": f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', '')}:{cnikit.SBIN}",
            "TMPDIR": f"{directory}/tmp",
            "SEALPOD_RUN_DIR": self.run,
            "SEALPOD_SHIM_SOCKETS": f"{directory}/s",
        }
        self._configure(pause, handlers)
        self._process: subprocess.Popen[bytes] | None = None
        self._snapshotter: subprocess.Popen[bytes] | None = None
        self.cri = CriClient(self.socket)

    def _configure(self, pause: str, handlers: Mapping[str, tuple[str, str]]) -> None:
        # Annotations tell a remote snapshotter which layer of which image it is asked for.
        text = CONFIG.format(
            directory=self.directory,
            pause=pause,
            plugins=cnikit.plugin_directory(),
            snapshotter=self._snapshotter_name,
            unannotated="false" if self._snapshotter_name == "sealpod" else "true",
        )
        for name, (kind, config) in handlers.items():
            path = f"{self.directory}/kata/{name}.toml"
            Path(path).write_text(config)
            text += RUNTIME.format(name=name, kind=kind, config=path)
        Path(f"{self.directory}/config.toml").write_text(text)
        registry = pause.partition("/")[0]
        Path(f"{self.directory}/certs/{registry}").mkdir(exist_ok=True)
        hosts = f'server = "http://{registry}"\n[host."http://{registry}"]\n  skip_verify = true\n'
        Path(f"{self.directory}/certs/{registry}/hosts.toml").write_text(hosts)
        self.network.configure(f"{self.directory}/cni", f"{self.directory}/ipam")

    @property
    def pid(self) -> int:
        """containerd's."""
        assert self._process is not None
        return self._process.pid

    @property
    def own_pids(self) -> set[int]:
        """Of the processes that belong to the node and not to a pod."""
        return {process.pid for process in (self._process, self._snapshotter) if process is not None}

    def start(self) -> None:
        """Start containerd (and its snapshotter, unless it runs) and wait until CRI answers."""
        podgroups.weigh(*GROUPS)
        if self._snapshotter is None and self._snapshotter_name == "sealpod":
            self._start_snapshotter()
        with open(f"{self.directory}/containerd.log", "ab") as log:
            self._process = subprocess.Popen(
                [self.program, "--config", f"{self.directory}/config.toml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        try:
            self.cri.wait_until_ready(START_SECONDS)
        except Exception as error:
            raise RuntimeError(f"containerd is not ready:\n{self.log()[-4000:]}") from error

    def _start_snapshotter(self) -> None:
        arguments = ["--address", f"{self.directory}/sn.sock", "--root", f"{self.directory}/sn"]
        arguments += ["--content", f"{self.directory}/root/io.containerd.content.v1.content"]
        with open(f"{self.directory}/snapshotter.log", "ab") as log:
            self._snapshotter = subprocess.Popen(
                [sys.executable, "-m", "sealpod.cli.main", "snapshotter", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not os.path.exists(f"{self.directory}/sn.sock"):
            if self._snapshotter.poll() is not None or time.monotonic() > deadline:
                text = Path(f"{self.directory}/snapshotter.log").read_text(errors="replace")
                raise RuntimeError(f"the snapshotter did not start:\n{text[-4000:]}")
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End containerd; its shims live on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End containerd and start it again."""
        self.stop(number)
        self.start()

    def ctr(
        self, *arguments: str, seconds: float = 120, program: str = "ctr"
    ) -> subprocess.CompletedProcess[str]:
        """``ctr`` on this containerd."""
        return subprocess.run(
            [program, "--address", self.socket, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=self.environment,
            check=False,
        )

    def clear(self, kept: Collection[str] = ()) -> None:
        """Stop and remove every pod that is not among ``kept``."""
        for pod in set(self.cri.pods()) - set(kept):
            self.cri.stop_pod(pod)
            self.cri.remove_pod(pod)

    def log(self) -> str:
        """What containerd and its shims said."""
        return Path(f"{self.directory}/containerd.log").read_text(errors="replace")

    def close(self) -> None:
        """End everything of the node."""
        if self._process is not None:
            with contextlib.suppress(Exception):
                self.clear()
        self.cri.close()
        self.stop()
        if self._snapshotter is not None:
            self._snapshotter.terminate()
            self._snapshotter.wait(30)
            self._snapshotter = None


@contextlib.contextmanager
def running(host: ContainerdHost) -> Iterator[ContainerdHost]:
    """The node, started, for the length of the block."""
    try:
        host.start()
        yield host
    finally:
        host.close()

# SPDX-License-Identifier: Apache-2.0
"""kubelet's part for tests: the CRI v1 calls of a pod's life, over grpcio with tables of fields."""

from __future__ import annotations

import os
import time
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from sealpod.wire.message import Message, Schema

CREATED, RUNNING, EXITED = 0, 1, 2
READY, NOT_READY = 0, 1
POD, CONTAINER, NODE = 0, 1, 2  # whose namespace a container gets
RUNTIME, IMAGES = "/runtime.v1.RuntimeService/", "/runtime.v1.ImageService/"

CRI = Schema(
    """\
VersionRequest version=1:string
VersionResponse version=1:string runtime_name=2:string runtime_version=3:string runtime_api_version=4:string
PodMetadata name=1:string uid=2:string namespace=3:string attempt=4:uint32
Metadata name=1:string attempt=2:uint32
Dns servers=1:*string searches=2:*string options=3:*string
Port protocol=1:enum container_port=2:int32 host_port=3:int32 host_ip=4:string
PodConfig metadata=1:PodMetadata hostname=2:string log_directory=3:string dns_config=4:Dns
  port_mappings=5:*Port labels=6:map annotations=7:map linux=8:LinuxPod
LinuxPod cgroup_parent=1:string security_context=2:PodSecurity sysctls=3:map resources=5:Resources
PodSecurity namespace_options=1:Namespaces privileged=6:bool
Namespaces network=1:enum pid=2:enum ipc=3:enum
RunPodSandboxRequest config=1:PodConfig runtime_handler=2:string
RunPodSandboxResponse pod_sandbox_id=1:string
PodRequest pod_sandbox_id=1:string verbose=2:bool
PodStatusResponse status=1:PodStatus info=2:map
PodStatus id=1:string metadata=2:PodMetadata state=3:enum network=5:PodNetwork runtime_handler=9:string
PodNetwork ip=1:string
ListPodResponse items=1:*ListedPod
ListedPod id=1:string state=3:enum
ImageSpec image=1:string
PullImageRequest image=1:ImageSpec sandbox_config=3:PodConfig
PullImageResponse image_ref=1:string
ImageRequest image=1:ImageSpec
ImageStatusResponse image=1:Image
Image id=1:string repo_tags=2:*string repo_digests=3:*string size=4:uint64
Mount container_path=1:string host_path=2:string readonly=3:bool propagation=5:enum
Env key=1:string value=2:string
Resources cpu_period=1:int64 cpu_quota=2:int64 cpu_shares=3:int64 memory_limit_in_bytes=4:int64
  oom_score_adj=5:int64 cpuset_cpus=6:string cpuset_mems=7:string unified=9:map
Capabilities add_capabilities=1:*string drop_capabilities=2:*string
Int64 value=1:int64
UInt64 value=1:uint64
Security capabilities=1:Capabilities privileged=2:bool namespace_options=3:Namespaces run_as_user=5:Int64
  run_as_username=6:string readonly_rootfs=7:bool supplemental_groups=8:*int64 no_new_privs=11:bool
  run_as_group=12:Int64
LinuxContainer resources=1:Resources security_context=2:Security
ContainerConfig metadata=1:Metadata image=2:ImageSpec command=3:*string args=4:*string working_dir=5:string
  envs=6:*Env mounts=7:*Mount labels=9:map annotations=10:map log_path=11:string stdin=12:bool
  stdin_once=13:bool tty=14:bool linux=15:LinuxContainer
CreateContainerRequest pod_sandbox_id=1:string config=2:ContainerConfig sandbox_config=3:PodConfig
ContainerResponse container_id=1:string
ContainerRequest container_id=1:string
StopContainerRequest container_id=1:string timeout=2:int64
StatusResponse status=1:ContainerStatus
ContainerStatus id=1:string metadata=2:Metadata state=3:enum created_at=4:int64 started_at=5:int64
  finished_at=6:int64 exit_code=7:int32 reason=10:string message=11:string
ListContainersResponse containers=1:*ListedContainer
ListedContainer id=1:string pod_sandbox_id=2:string metadata=3:Metadata state=6:enum
ExecSyncRequest container_id=1:string cmd=2:*string timeout=3:int64
ExecSyncResponse stdout=1:bytes stderr=2:bytes exit_code=3:int32
ExecRequest container_id=1:string cmd=2:*string tty=3:bool stdin=4:bool stdout=5:bool stderr=6:bool
ExecResponse url=1:string
UpdateRequest container_id=1:string linux=2:Resources
StatsResponse stats=1:Stats
Stats cpu=2:Cpu memory=3:Memory
Cpu timestamp=1:int64 usage_core_nano_seconds=2:UInt64
Memory timestamp=1:int64 working_set_bytes=2:UInt64
Empty
"""
)


@dataclass(frozen=True)
class Pod:
    """A pod's id and what it was made of."""

    id: str
    config: Message

    @property
    def logs(self) -> str:
        """Where containerd writes what its containers say."""
        return str(self.config.log_directory)


class CriClient:
    """Calls on one containerd. Every call has a deadline; a refusal is a :class:`grpc.RpcError`."""

    def __init__(self, socket: str) -> None:
        self._target = f"unix://{socket}"
        self._channel = self._open()

    def _open(self) -> grpc.Channel:
        options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.max_receive_message_length", 64 << 20)]
        return grpc.insecure_channel(self._target, options=options)

    def close(self) -> None:
        """No more calls."""
        self._channel.close()

    def call(self, method: str, request: Message, answer: str, seconds: float = 120) -> Message:
        """Any unary method; ``answer`` names the answer's table."""
        service = IMAGES if "Image" in method else RUNTIME
        call = self._channel.unary_unary(service + method)
        return CRI.decode(answer, bytes(call(request.encode(), timeout=seconds, wait_for_ready=True)))

    def wait_until_ready(self, seconds: float) -> None:
        """The CRI plugin answers only when it is loaded."""
        self._channel.close()
        self._channel = self._open()
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.call("Version", CRI.new("VersionRequest"), "VersionResponse", seconds=1)
                return
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def pod_config(
        self,
        logs: str,
        name: str = "",
        *,
        annotations: dict[str, str] | None = None,
        host_network: bool = False,
        privileged: bool = False,
        share_pids: bool = False,
        ports: list[Message] | None = None,
        limits: dict[str, int] | None = None,
        cgroup_parent: str = "",
    ) -> Message:
        """A pod as kubelet describes it; unnamed ones get a name. ``limits`` are those of its containers."""
        uid = str(uuid.uuid4())
        name = name or f"pod-{uid[:8]}"
        directory = os.path.join(logs, uid)
        os.makedirs(directory)
        return CRI.new(
            "PodConfig",
            metadata=CRI.new("PodMetadata", name=name, uid=uid, namespace="default"),
            hostname="" if host_network else name,
            log_directory=directory,
            annotations=annotations or {},
            port_mappings=ports or [],
            linux=CRI.new(
                "LinuxPod",
                cgroup_parent=cgroup_parent,
                security_context=CRI.new(
                    "PodSecurity",
                    namespace_options=_spaces(host_network, share_pids),
                    privileged=privileged,
                ),
                resources=CRI.new("Resources", **limits or {}),
            ),
        )

    def run_pod(self, handler: str, logs: str, *, seconds: float = 180, **options: Any) -> Pod:
        """RunPodSandbox; ``options`` are those of :meth:`pod_config`."""
        return self.run_config(handler, self.pod_config(logs, **options), seconds)

    def run_config(self, handler: str, config: Message, seconds: float = 180) -> Pod:
        """RunPodSandbox of a pod that is described already."""
        request = CRI.new("RunPodSandboxRequest", config=config, runtime_handler=handler)
        answer = self.call("RunPodSandbox", request, "RunPodSandboxResponse", seconds)
        return Pod(str(answer.pod_sandbox_id), config)

    def pod_status(self, pod: Pod) -> Message:
        """PodSandboxStatus."""
        request = CRI.new("PodRequest", pod_sandbox_id=pod.id)
        status: Message = self.call("PodSandboxStatus", request, "PodStatusResponse").status
        return status

    def pod_ip(self, pod: Pod) -> str:
        """The pod's address."""
        return str(self.pod_status(pod).network.ip)

    def pods(self) -> list[str]:
        """Ids of all pods."""
        answer = self.call("ListPodSandbox", CRI.new("Empty"), "ListPodResponse")
        return [str(item.id) for item in answer.items]

    def stop_pod(self, pod_id: str, seconds: float = 60) -> None:
        """StopPodSandbox."""
        self.call("StopPodSandbox", CRI.new("PodRequest", pod_sandbox_id=pod_id), "Empty", seconds)

    def remove_pod(self, pod_id: str) -> None:
        """RemovePodSandbox, its containers included."""
        self.call("RemovePodSandbox", CRI.new("PodRequest", pod_sandbox_id=pod_id), "Empty")

    def end_pod(self, pod: Pod) -> None:
        """Stop and remove."""
        self.stop_pod(pod.id)
        self.remove_pod(pod.id)

    def pull(self, image: str, pod: Pod | None = None) -> str:
        """PullImage; the reference containerd gives."""
        request = CRI.new("PullImageRequest", image=CRI.new("ImageSpec", image=image))
        if pod is not None:
            request.sandbox_config = pod.config
        return str(self.call("PullImage", request, "PullImageResponse").image_ref)

    def has_image(self, image: str) -> bool:
        """ImageStatus."""
        request = CRI.new("ImageRequest", image=CRI.new("ImageSpec", image=image))
        return self.call("ImageStatus", request, "ImageStatusResponse").has("image")

    def remove_image(self, image: str) -> None:
        """RemoveImage."""
        request = CRI.new("ImageRequest", image=CRI.new("ImageSpec", image=image))
        self.call("RemoveImage", request, "Empty")

    def create(
        self,
        pod: Pod,
        image: str,
        *command: str,
        name: str = "main",
        attempt: int = 0,
        args: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        mounts: dict[str, str] | None = None,
        limits: dict[str, Any] | None = None,
        propagation: int = 0,
        share_pids: bool = False,
        security: dict[str, Any] | None = None,
        **fields: Any,
    ) -> str:
        """CreateContainer; its id. ``mounts``: host paths by container path; ``limits``: of Resources."""
        context = CRI.new("Security", namespace_options=_spaces(False, share_pids), **(security or {}))
        linux = CRI.new("LinuxContainer", security_context=context)
        if limits:
            linux.resources = CRI.new("Resources", **limits)
        config = CRI.new(
            "ContainerConfig",
            metadata=CRI.new("Metadata", name=name, attempt=attempt),
            image=CRI.new("ImageSpec", image=image),
            command=list(command),
            args=list(args),
            envs=[CRI.new("Env", key=key, value=value) for key, value in (env or {}).items()],
            mounts=[
                CRI.new("Mount", container_path=inside, host_path=outside, propagation=propagation)
                for inside, outside in (mounts or {}).items()
            ],
            log_path=f"{name}.log",
            linux=linux,
            **fields,
        )
        request = CRI.new(
            "CreateContainerRequest", pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config
        )
        return str(self.call("CreateContainer", request, "ContainerResponse").container_id)

    def start(self, container: str) -> None:
        """StartContainer."""
        self._on(container, "StartContainer")

    def run(self, pod: Pod, image: str, *command: str, **options: Any) -> str:
        """Pull, create and start; the container's id."""
        self.pull(image, pod)
        container = self.create(pod, image, *command, **options)
        self.start(container)
        return container

    def stop(self, container: str, grace: int = 5) -> None:
        """StopContainer."""
        request = CRI.new("StopContainerRequest", container_id=container, timeout=grace)
        self.call("StopContainer", request, "Empty")

    def remove(self, container: str) -> None:
        """RemoveContainer."""
        self._on(container, "RemoveContainer")

    def containers(self) -> list[str]:
        """Ids of all containers."""
        answer = self.call("ListContainers", CRI.new("Empty"), "ListContainersResponse")
        return [str(one.id) for one in answer.containers]

    def status(self, container: str) -> Message:
        """ContainerStatus."""
        request = CRI.new("ContainerRequest", container_id=container)
        status: Message = self.call("ContainerStatus", request, "StatusResponse").status
        return status

    def wait_for_exit(self, container: str, seconds: float = 60) -> Message:
        """The status of a container that has ended."""
        deadline = time.monotonic() + seconds
        while (status := self.status(container)).state != EXITED:
            assert time.monotonic() < deadline, f"the container has not ended in {seconds} s"
            time.sleep(0.1)
        return status

    def exec(self, container: str, *command: str, seconds: int = 60) -> tuple[int, str, str]:
        """ExecSync: exit code, standard output, standard error."""
        request = CRI.new("ExecSyncRequest", container_id=container, cmd=list(command), timeout=seconds)
        answer = self.call("ExecSync", request, "ExecSyncResponse", seconds + 30)
        return answer.exit_code, answer.stdout.decode(), answer.stderr.decode()

    def read(self, container: str, *command: str) -> str:
        """What a command that must succeed prints."""
        status, output, errors = self.exec(container, *command)
        assert status == 0, (status, output, errors)
        return output

    def update(self, container: str, **limits: Any) -> None:
        """UpdateContainerResources."""
        request = CRI.new("UpdateRequest", container_id=container, linux=CRI.new("Resources", **limits))
        self.call("UpdateContainerResources", request, "Empty")

    def stats(self, container: str) -> Message:
        """ContainerStats."""
        request = CRI.new("ContainerRequest", container_id=container)
        stats: Message = self.call("ContainerStats", request, "StatsResponse").stats
        return stats

    def _on(self, container: str, method: str) -> None:
        self.call(method, CRI.new("ContainerRequest", container_id=container), "Empty")


def _spaces(host_network: bool, share_pids: bool) -> Message:
    return CRI.new(
        "Namespaces", network=NODE if host_network else POD, pid=POD if share_pids else CONTAINER, ipc=POD
    )


def log(pod: Pod, name: str = "main", stream: str = "stdout") -> str:
    """What kubectl would print of a container's log: ``TIME STREAM F|P TEXT``, a line each."""
    path = Path(pod.logs, f"{name}.log")
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        _, where, flag, text = line.split(" ", 3)
        if where == stream:
            found.append(text + ("\n" if flag == "F" else ""))
    return "".join(found)


def wait_for_log(pod: Pod, text: str, name: str = "main", seconds: float = 60) -> str:
    """The log once ``text`` is in it."""
    deadline = time.monotonic() + seconds
    while text not in (found := log(pod, name)):
        assert time.monotonic() < deadline, f"{text!r} is not in the log: {found[-500:]!r}"
        time.sleep(0.1)
    return found


def fetch(address: str, page: str = "") -> str:
    """A page at an address of the pod network, once something listens."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/{page}", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)

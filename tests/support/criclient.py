# SPDX-License-Identifier: Apache-2.0
"""kubelet's part for tests: the CRI v1 calls of a pod's life, over grpcio with tables of fields."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import grpc

from sealpod.wire.message import Message, Schema

RUNNING, EXITED = 1, 2

CRI = Schema(
    """\
VersionRequest version=1:string
VersionResponse version=1:string runtime_name=2:string runtime_version=3:string runtime_api_version=4:string
PodMetadata name=1:string uid=2:string namespace=3:string attempt=4:uint32
Metadata name=1:string attempt=2:uint32
Dns servers=1:*string searches=2:*string options=3:*string
PodConfig metadata=1:PodMetadata hostname=2:string log_directory=3:string dns_config=4:Dns labels=6:map
  annotations=7:map linux=8:LinuxPod
LinuxPod cgroup_parent=1:string security_context=2:PodSecurity resources=5:Resources
PodSecurity namespace_options=1:Namespaces
Namespaces network=1:enum pid=2:enum ipc=3:enum
RunPodSandboxRequest config=1:PodConfig runtime_handler=2:string
RunPodSandboxResponse pod_sandbox_id=1:string
PodRequest pod_sandbox_id=1:string
PodStatusResponse status=1:PodStatus
PodStatus id=1:string state=3:enum network=5:PodNetwork
PodNetwork ip=1:string
ListPodRequest
ListPodResponse items=1:*PodStatus
ImageSpec image=1:string
PullImageRequest image=1:ImageSpec sandbox_config=3:PodConfig
PullImageResponse image_ref=1:string
ImageRequest image=1:ImageSpec
Mount container_path=1:string host_path=2:string readonly=3:bool
Env key=1:string value=2:string
Resources cpu_period=1:int64 cpu_quota=2:int64 cpu_shares=3:int64 memory_limit_in_bytes=4:int64
Capabilities add_capabilities=1:*string drop_capabilities=2:*string
Int64 value=1:int64
Security capabilities=1:Capabilities privileged=2:bool namespace_options=3:Namespaces run_as_user=5:Int64
  readonly_rootfs=7:bool
LinuxContainer resources=1:Resources security_context=2:Security
ContainerConfig metadata=1:Metadata image=2:ImageSpec command=3:*string args=4:*string working_dir=5:string
  envs=6:*Env mounts=7:*Mount log_path=11:string stdin=12:bool tty=14:bool linux=15:LinuxContainer
CreateContainerRequest pod_sandbox_id=1:string config=2:ContainerConfig sandbox_config=3:PodConfig
ContainerResponse container_id=1:string
ContainerRequest container_id=1:string
StopContainerRequest container_id=1:string timeout=2:int64
StatusResponse status=1:ContainerStatus
ContainerStatus id=1:string state=3:enum exit_code=7:int32 reason=10:string message=11:string
ExecSyncRequest container_id=1:string cmd=2:*string timeout=3:int64
ExecSyncResponse stdout=1:bytes stderr=2:bytes exit_code=3:int32
UpdateRequest container_id=1:string linux=2:Resources
Empty
"""
)

RUNTIME, IMAGES = "/runtime.v1.RuntimeService/", "/runtime.v1.ImageService/"


@dataclass
class Pod:
    """A pod that runs: its id and what it was made of."""

    id: str
    config: Message
    logs: str
    containers: list[str] = field(default_factory=list)


class CriClient:
    """Calls on one containerd. Every call has a deadline."""

    def __init__(self, socket: str) -> None:
        self._channel = grpc.insecure_channel(f"unix://{socket}")

    def close(self) -> None:
        self._channel.close()

    def call(self, method: str, request: Message, answer: str, timeout: float = 120) -> Message:
        service = IMAGES if "Image" in method else RUNTIME
        call = self._channel.unary_unary(service + method)
        return CRI.decode(answer, bytes(call(request.encode(), timeout=timeout, wait_for_ready=True)))

    def wait_until_ready(self) -> None:
        """The CRI plugin answers only when it is loaded."""
        deadline = time.monotonic() + 30
        while True:
            try:
                self.call("Version", CRI.new("VersionRequest"), "VersionResponse", timeout=5)
                return
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def run_pod(
        self,
        handler: str,
        logs: str,
        *,
        annotations: dict[str, str] | None = None,
        host_network: bool = False,
        timeout: float = 120,
        name: str = "",
    ) -> Pod:
        uid = str(uuid.uuid4())
        namespaces = CRI.new("Namespaces", network=2 if host_network else 0, pid=1)
        config = CRI.new(
            "PodConfig",
            metadata=CRI.new("PodMetadata", name=name or f"pod-{uid[:8]}", uid=uid, namespace="default"),
            hostname=name or f"pod-{uid[:8]}",
            log_directory=logs,
            annotations=annotations or {},
            linux=CRI.new("LinuxPod", security_context=CRI.new("PodSecurity", namespace_options=namespaces)),
        )
        request = CRI.new("RunPodSandboxRequest", config=config, runtime_handler=handler)
        answer = self.call("RunPodSandbox", request, "RunPodSandboxResponse", timeout)
        return Pod(answer.pod_sandbox_id, config, logs)

    def pull(self, image: str, pod: Pod | None = None) -> str:
        request = CRI.new("PullImageRequest", image=CRI.new("ImageSpec", image=image))
        if pod is not None:
            request.sandbox_config = pod.config
        return str(self.call("PullImage", request, "PullImageResponse").image_ref)

    def create(self, pod: Pod, image: str, command: list[str], name: str = "main", **fields: Any) -> str:
        config = CRI.new(
            "ContainerConfig",
            metadata=CRI.new("Metadata", name=name),
            image=CRI.new("ImageSpec", image=image),
            command=command,
            log_path=f"{name}.log",
            **fields,
        )
        request = CRI.new(
            "CreateContainerRequest", pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config
        )
        container = str(self.call("CreateContainer", request, "ContainerResponse").container_id)
        pod.containers.append(container)
        return container

    def start(self, container: str) -> None:
        self._on(container, "StartContainer")

    def remove(self, container: str) -> None:
        self._on(container, "RemoveContainer")

    def stop(self, container: str, grace: int = 5) -> None:
        request = CRI.new("StopContainerRequest", container_id=container, timeout=grace)
        self.call("StopContainer", request, "Empty")

    def status(self, container: str) -> Message:
        request = CRI.new("ContainerRequest", container_id=container)
        answer: Message = self.call("ContainerStatus", request, "StatusResponse").status
        return answer

    def wait_for_exit(self, container: str, seconds: float = 60) -> Message:
        deadline = time.monotonic() + seconds
        while (status := self.status(container)).state != EXITED:
            assert time.monotonic() < deadline, f"the container has not ended in {seconds} s"
            time.sleep(0.1)
        return status

    def exec(self, container: str, *command: str, timeout: int = 60) -> tuple[int, str, str]:
        request = CRI.new("ExecSyncRequest", container_id=container, cmd=list(command), timeout=timeout)
        answer = self.call("ExecSync", request, "ExecSyncResponse", timeout + 30)
        return answer.exit_code, answer.stdout.decode(), answer.stderr.decode()

    def pod_ip(self, pod: Pod) -> str:
        request = CRI.new("PodRequest", pod_sandbox_id=pod.id)
        return str(self.call("PodSandboxStatus", request, "PodStatusResponse").status.network.ip)

    def stop_pod(self, pod_id: str) -> None:
        self.call("StopPodSandbox", CRI.new("PodRequest", pod_sandbox_id=pod_id), "Empty")

    def remove_pod(self, pod_id: str) -> None:
        self.call("RemovePodSandbox", CRI.new("PodRequest", pod_sandbox_id=pod_id), "Empty")

    def pods(self) -> list[str]:
        answer = self.call("ListPodSandbox", CRI.new("ListPodRequest"), "ListPodResponse")
        return [item.id for item in answer.items]

    def _on(self, container: str, method: str) -> None:
        self.call(method, CRI.new("ContainerRequest", container_id=container), "Empty")

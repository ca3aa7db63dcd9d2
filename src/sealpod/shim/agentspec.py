# SPDX-License-Identifier: Apache-2.0
"""containerd's OCI specification as a request to the guest's agent. Pure.

What concerns the host only is left out: hooks, device rules, block I/O and network limits, CPU pinning, the
network and cgroup namespaces, SELinux labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sealpod.shim.usernames import NO_NAMES, Names, is_named, user_of
from sealpod.wire.agentapi import OOM_GROUP
from sealpod.wire.pb import agent_pb2, oci_pb2

IMAGE_NAMES: Final = ("io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName")
VOLUME_OPTION: Final = "io.katacontainers.volume="


def image_name(annotations: Mapping[str, str]) -> str:
    """The image's reference in the annotations; empty if there is none."""
    return next((annotations[name] for name in IMAGE_NAMES if annotations.get(name)), "")


def shares_pid(config: Mapping[str, Any]) -> bool:
    """Whether the container joins the pod's pid namespace."""
    namespaces = (config.get("linux") or {}).get("namespaces") or []
    return any(one.get("type") == "pid" and one.get("path") for one in namespaces)


def rootfs_path(container_id: str) -> str:
    """Where the guest has a container's root file system."""
    return f"/run/kata-containers/{container_id}/rootfs"


def create_request(
    container_id: str,
    config: Mapping[str, Any],
    image: str,
    mounts: Iterable[oci_pb2.Mount] = (),
    storages: Iterable[agent_pb2.Storage] = (),
    names: Names = NO_NAMES,
) -> agent_pb2.CreateContainerRequest:
    """The request that makes the container of a bundle, its image pulled by the guest."""
    linux = config.get("linux") or {}
    root = rootfs_path(container_id)
    process = config.get("process") or {}
    pull = agent_pb2.Storage(driver="image_guest_pull", source=image, fstype="overlay", mount_point=root)
    spec = oci_pb2.Spec(
        Version=str(config.get("ociVersion") or "1.0.2"),
        Process=process_of(process, names),
        Root=oci_pb2.Root(Path=root, Readonly=bool((config.get("root") or {}).get("readonly"))),
        Hostname=str(config.get("hostname") or ""),
        Mounts=mounts,
        Annotations={"io.kubernetes.cri.image-name": image},
        Linux=oci_pb2.Linux(
            Sysctl=linux.get("sysctl") or {},
            Resources=resources_of(linux.get("resources") or {}),
            MaskedPaths=linux.get("maskedPaths") or [],
            ReadonlyPaths=linux.get("readonlyPaths") or [],
        ),
    )
    unified = (linux.get("resources") or {}).get("unified") or {}
    if unified.get("memory.oom.group") == "1":  # kubelet's way since 1.28
        spec.Annotations[OOM_GROUP] = "true"
    if linux.get("seccomp"):
        spec.Linux.Seccomp.CopyFrom(_seccomp(linux["seccomp"]))
    return agent_pb2.CreateContainerRequest(
        container_id=container_id,
        exec_id=container_id,
        storages=[pull, *storages],
        OCI=spec,
        string_user=user_of(process, names),
        sandbox_pidns=shares_pid(config),
    )


def exec_request(
    container_id: str, exec_id: str, process: Mapping[str, Any], terminal: bool, names: Names = NO_NAMES
) -> agent_pb2.ExecProcessRequest:
    """The request that runs a process in a container; as a user by name, it is the container's own."""
    message = process_of(process, names)
    message.Terminal = terminal
    user = agent_pb2.StringUser() if is_named(process, names) else user_of(process, names)
    return agent_pb2.ExecProcessRequest(
        container_id=container_id, exec_id=exec_id, process=message, string_user=user
    )


def process_of(process: Mapping[str, Any], names: Names = NO_NAMES) -> oci_pb2.Process:
    """An OCI process as the agent reads it. Where its user is one by name, no number is sent."""
    user = {} if is_named(process, names) else process.get("user") or {}
    size = process.get("consoleSize") or {}
    message = oci_pb2.Process(
        Terminal=bool(process.get("terminal")),
        User=oci_pb2.User(
            UID=user.get("uid") or 0,
            GID=user.get("gid") or 0,
            AdditionalGids=[gid for gid in user.get("additionalGids") or () if gid],
            Username=user.get("username") or "",
        ),
        Args=process.get("args") or [],
        Env=process.get("env") or [],
        Cwd=process.get("cwd") or "",
        NoNewPrivileges=bool(process.get("noNewPrivileges")),
        OOMScoreAdj=process.get("oomScoreAdj") or 0,
        Rlimits=[
            oci_pb2.POSIXRlimit(Type=one["type"], Hard=one["hard"], Soft=one["soft"])
            for one in process.get("rlimits") or ()
        ],
    )
    if size:
        message.ConsoleSize.Height, message.ConsoleSize.Width = size.get("height", 0), size.get("width", 0)
    capabilities = process.get("capabilities")
    if capabilities is not None:
        message.Capabilities.CopyFrom(
            oci_pb2.LinuxCapabilities(
                Bounding=capabilities.get("bounding") or [],
                Effective=capabilities.get("effective") or [],
                Inheritable=capabilities.get("inheritable") or [],
                Permitted=capabilities.get("permitted") or [],
                Ambient=capabilities.get("ambient") or [],
            )
        )
    return message


def resources_of(resources: Mapping[str, Any]) -> oci_pb2.LinuxResources:
    """Limits of memory, processor time and processes."""
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    return oci_pb2.LinuxResources(
        Memory=oci_pb2.LinuxMemory(
            Limit=memory.get("limit") or 0,
            Reservation=memory.get("reservation") or 0,
            Swap=memory.get("swap") or 0,
        ),
        CPU=oci_pb2.LinuxCPU(
            Shares=cpu.get("shares") or 0, Quota=cpu.get("quota") or 0, Period=cpu.get("period") or 0
        ),
        Pids=oci_pb2.LinuxPids(Limit=(resources.get("pids") or {}).get("limit") or 0),
    )


def _seccomp(profile: Mapping[str, Any]) -> oci_pb2.LinuxSeccomp:
    message = oci_pb2.LinuxSeccomp(
        DefaultAction=profile.get("defaultAction") or "",
        Architectures=profile.get("architectures") or [],
        Flags=profile.get("flags") or [],
    )
    for rule in profile.get("syscalls") or ():
        entry = message.Syscalls.add(Names=rule.get("names") or [], Action=rule.get("action") or "")
        if rule.get("errnoRet") is not None:
            entry.errnoret = rule["errnoRet"]
        for one in rule.get("args") or ():
            entry.Args.add(
                Index=one.get("index") or 0,
                Value=one.get("value") or 0,
                ValueTwo=one.get("valueTwo") or 0,
                Op=one.get("op") or "",
            )
    return message

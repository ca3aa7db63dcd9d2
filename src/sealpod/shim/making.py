# SPDX-License-Identifier: Apache-2.0
"""Making a container: the pod's machine for its own, an image and volumes in the guest for every other."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Final

from sealpod.errors import (
    ConflictError,
    DeadlineError,
    DecodeError,
    OperationError,
    SealpodError,
    VerificationError,
)
from sealpod.sandbox.podport import PodRequest
from sealpod.shim import agentspec, bundle, devices, imagename, lastwords, usernames
from sealpod.shim.container import Container
from sealpod.shim.pod import Pod
from sealpod.shim.volumes import Volumes
from sealpod.wire.agentapi import TERMINATION_LOG
from sealpod.wire.message import Message
from sealpod.wire.pb import agent_pb2
from sealpod.wire.taskapi import MESSAGES, OPTIONS_URLS

MAX_RESOLV_CONF: Final = 64 << 10


async def make(pod: Pod, container: Container, request: Message) -> None:
    """Make what ``request`` (a ``CreateTaskRequest``) asks for.

    Cancelled or failed, nothing of it is left: an image still being pulled is removed when it has come.
    """
    try:
        config = bundle.read_config(request.bundle)
    except (OSError, ValueError) as exc:
        text = f"the bundle {request.bundle} cannot be read: {exc}"
        raise DecodeError(text, code="shim.bundle") from exc
    annotations = bundle.annotations_of(config)
    container.virtual = bundle.is_sandbox(annotations)
    container.owner = not bundle.is_member(annotations)
    _check_order(pod, container)
    _open_streams(container)
    try:
        if container.owner:
            pod.sysctls = dict((config.get("linux") or {}).get("sysctl") or {})
            await pod.boot(pod_request(pod, request, config, annotations))
        pod.confine(container.id, (config.get("linux") or {}).get("resources"))
        if not container.virtual:
            await _make_in_guest(pod, container, request, config, annotations)
    except BaseException:
        pod.release(container.id)
        if container.owner and pod.vm is not None:
            await pod.stop()
        raise


def _check_order(pod: Pod, container: Container) -> None:
    """Kata's words for what containerd must not ask for."""
    others = [one for one in pod.containers.values() if one.owner and one is not container]
    if container.owner and (others or pod.vm is not None):
        text = f"cannot create another sandbox in sandbox: {pod.context.id}"
        raise ConflictError(text, code="shim.exists")
    if not container.owner and pod.vm is None:
        text = "BUG: Cannot start the container, since the sandbox hasn't been created"
        raise VerificationError(text, code="shim.no-sandbox")
    if not container.owner:
        pod.machine()


def _open_streams(container: Container) -> None:
    try:
        container.init.open_streams()
    except OSError as exc:
        text = f"cannot open the container's streams: {exc.strerror}"
        raise OperationError(text, code="shim.streams") from exc


async def _make_in_guest(
    pod: Pod, container: Container, request: Message, config: dict[str, Any], annotations: dict[str, str]
) -> None:
    vm, volumes = pod.machine(), pod.volumes
    if volumes is None:
        raise RuntimeError("a machine without volumes")
    devices.check(config.get("linux") or {})
    image = await imagename.find(annotations, request.rootfs, pod.context, request.id)
    wanted = config.get("mounts") or ()
    container.names = usernames.of_rootfs(request.rootfs)
    try:
        mounts, storages = await _bring(pod, volumes, container.id, wanted)
        message = agentspec.create_request(
            container.id, config, vm.settings.image_reference(image), mounts, storages, container.names
        )
        message.OCI.Process.Terminal = container.init.stdio.terminal
        _expect_last_words(container, message, wanted)
        for name, value in pod.sysctls.items():
            message.OCI.Linux.Sysctl.setdefault(name, value)
        await _call(pod, container.id, message, vm.settings.kata.create_timeout)
    except BaseException:
        volumes.forget(container.id)
        raise


async def _bring(pod: Pod, volumes: Volumes, container_id: str, wanted: Any) -> tuple[list[Any], list[Any]]:
    try:
        return await volumes.bring(container_id, wanted)
    except BaseException:
        # The container will not be, but copies for it are there.
        pod.keep(_remove(pod, container_id))
        raise


async def _call(pod: Pod, container_id: str, message: Any, seconds: float) -> None:
    call = asyncio.create_task(pod.call("CreateContainer", message, seconds=None))
    try:
        async with asyncio.timeout(seconds):
            await asyncio.shield(call)
    except TimeoutError as exc:
        pod.keep(_remove_later(pod, container_id, call))
        raise DeadlineError(
            f"the guest did not make the container, its image's pull included, within {seconds:g} s",
            code="agent.deadline",
            remedy="see what holds up the guest or its registry, or raise create_container_timeout",
        ) from exc
    except asyncio.CancelledError:
        pod.keep(_remove_later(pod, container_id, call))
        raise


def _expect_last_words(container: Container, message: Any, wanted: Any) -> None:
    place = lastwords.find(wanted)
    if place is not None and any(mount.destination == place.destination for mount in message.OCI.Mounts):
        message.OCI.Annotations[TERMINATION_LOG] = place.destination
        container.init.farewell = lambda agent: lastwords.bring(agent, container.id, place.source)
        container.init.epitaph = lambda text: lastwords.leave(place.source, text)


async def _remove_later(pod: Pod, container_id: str, call: asyncio.Task[bytes]) -> None:
    """The agent cannot be told to stop making a container; what it has made is removed."""
    await asyncio.wait([call])
    if call.cancelled() or call.exception() is not None:
        return
    await _remove(pod, container_id)


async def _remove(pod: Pod, container_id: str) -> None:
    with contextlib.suppress(SealpodError):
        await pod.call("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=container_id))


def pod_request(
    pod: Pod, request: Message, config: dict[str, Any], annotations: dict[str, str]
) -> PodRequest:
    """What the pod's machine is to be, from containerd's request and the specification."""
    return PodRequest(
        id=request.id,
        namespace=pod.context.namespace,
        runtime=pod.context.runtime,
        config_path=_config_path(request),
        annotations=annotations,
        netns=_network_namespace(config),
        # On the host's network a pod has no name of its own; with runc, too, it sees the node's.
        hostname=str(config.get("hostname") or socket.gethostname()),
        dns=_dns(config),
        socket=pod.context.socket,
        bundle=request.bundle,
        cgroups_path=str((config.get("linux") or {}).get("cgroupsPath") or ""),
    )


def _config_path(request: Message) -> str:
    if request.has("options") and request.options.type_url in OPTIONS_URLS:
        return str(MESSAGES.decode("Options", request.options.value).config_path)
    return ""


def _network_namespace(config: dict[str, Any]) -> str:
    for one in (config.get("linux") or {}).get("namespaces") or ():
        if one.get("type") == "network":
            return str(one.get("path") or "")
    return ""


def _dns(config: dict[str, Any]) -> tuple[str, ...]:
    for mount in config.get("mounts") or ():
        if mount.get("destination") == "/etc/resolv.conf":
            with (
                contextlib.suppress(OSError),
                open(mount["source"], encoding="utf-8", errors="replace") as file,
            ):
                return tuple(file.read(MAX_RESOLV_CONF).splitlines())
    return ()

# SPDX-License-Identifier: Apache-2.0
"""The pod inside the guest: its name and files, its volumes and namespaces, and its containers by id.

What lies below ``root`` (``/run/kata-containers``)::

    sandbox/{resolv.conf,hosts,hostname}   shown in every container unless the request brings its own
    sandbox/{shm,ephemeral/...}            volumes in memory
    shared/containers/...                  files the host copied; plain volumes
    image/<n>/<layer>                      unpacked images
    sandbox-holder/config.json             OCI bundle of what holds a shared pid namespace
    <container>/config.json                OCI bundle; also upper, work and rootfs of its overlay, and volumes

Nothing half-made stays: a container whose creation fails is taken apart again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

from sealpod.agent import merge, mounts, namefiles, rootfs, spec
from sealpod.agent.container import Container
from sealpod.agent.images import Puller
from sealpod.agent.merge import IMAGE_GUEST_PULL
from sealpod.agent.namespaces import PID, Namespaces
from sealpod.agent.oom import Oom
from sealpod.agent.reaper import Reaper
from sealpod.agent.runtime import Runtime
from sealpod.agent.sources import Sources
from sealpod.agent.storage import Volumes
from sealpod.agent.streams import Opening
from sealpod.errors import ConflictError, NotFoundError, OperationError, UsageError
from sealpod.wire.message import Message

if TYPE_CHECKING:
    from sealpod.agent.copyfile import Files
    from sealpod.agent.holder import Holder

ROOT: Final = "/run/kata-containers"
"""Kata's place, which storages name in their mount points."""
RESOLV_CONF: Final = "/etc/resolv.conf"
HOLDER: Final = "sandbox-holder"
RESERVED: Final = ("sandbox", "image", "shared", HOLDER)
MAX_CONTAINERS: Final = 64

_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_HOSTNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What sethostname(2) takes, as far as it can stand in ``/etc/hosts``; nodes have had underscores."""


class Sandbox:
    """Containers of this guest. Methods may be called from many threads."""

    def __init__(
        self,
        puller: Puller,
        reaper: Reaper,
        runtime: Runtime,
        *,
        root: str = ROOT,
        resolv_conf: str = RESOLV_CONF,
        namespaces: Namespaces | None = None,
        silent: bool = False,
        privileged: bool = True,
    ) -> None:
        self._pull = puller
        self._reaper = reaper
        self._runtime = runtime
        self._root = root
        self._silent = silent
        self.privileged = privileged
        """Whether containers may have rights that reach into the guest."""
        self._resolv_conf = resolv_conf
        self._directory = os.path.join(root, "sandbox")
        shared = os.path.join(root, "shared")
        self.volumes = Volumes(self._directory, os.path.join(shared, "containers"))
        self._shared = shared
        self._copied: Files | None = None
        self._namespaces = namespaces or Namespaces()
        self._holder: Holder | None = None
        self.id = ""
        """The pod's, as the host calls it."""
        self._configured = False
        self._hostname = "localhost"
        self._files: tuple[tuple[str, str], ...] = ()
        self._lock = threading.Lock()
        self.creating = threading.Lock()
        """Held while a process is made: a status nobody asked for might be that of the one to appear."""
        self.oom = Oom()
        self._containers: dict[str, Container | None] = {}

    # Imported when first needed, because the agent's imports are a part of every start.

    def copied(self) -> Files:
        """The files the host copies."""
        from sealpod.agent.copyfile import Files

        with self._lock:
            if self._copied is None:
                places = (os.path.join(self._shared, name) for name in ("containers", "incoming"))
                self._copied = Files(*places)
            return self._copied

    def _shared_pids(self) -> str:
        from sealpod.agent.holder import Holder

        with self._lock:
            if self._holder is None:
                # Not below `sandbox`, where volumes are: a container could write what crun is to do.
                directory = os.path.join(self._root, HOLDER)
                self._holder = Holder(HOLDER, directory, self._runtime, self._reaper, self._namespaces)
        return self._holder.path(self.creating)

    def _set_parameters(self, asked: Message) -> None:
        if asked.Sysctl:
            from sealpod.agent import sysctls

            sysctls.apply(asked.Sysctl, self._namespaces)

    def configure(self, request: Message) -> None:
        """Make the pod (``CreateSandboxRequest``), once: name, name servers, namespaces, volumes."""
        with self._lock:
            if self._configured:
                raise ConflictError("this guest has a pod already", code="sandbox.exists")
            self._configured = True
        hostname = request.hostname
        if hostname:
            if _HOSTNAME.fullmatch(hostname) is None:
                raise UsageError(f"{hostname[:80]!r} is no host name", code="sandbox.hostname")
            socket.sethostname(hostname)
            self._hostname = hostname
        self.id = request.sandbox_id
        self._namespaces.make(self._hostname)
        self._files = namefiles.write(self._directory, self._resolv_conf, self._hostname, request.dns)
        for storage in request.storages:
            self.volumes.make(storage)

    def create(self, request: Message) -> None:
        """Pull the image and create the container (``CreateContainerRequest``)."""
        container_id = request.container_id
        self._reserve(container_id)
        try:
            container = self._create(container_id, request)
        except BaseException:
            with self._lock:
                del self._containers[container_id]
            self._forget_copies(container_id)
            raise
        with self._lock:
            self._containers[container_id] = container
        container.watch(self._reaper)
        self.oom.watch(container_id, f"{spec.CGROUP_PARENT}/{container_id}")

    def get(self, container_id: str) -> Container:
        """A created container. Raises :class:`NotFoundError` (``container.unknown``)."""
        with self._lock:
            container = self._containers.get(container_id)
        if container is None:
            raise NotFoundError(f"no container {container_id!r}", code="container.unknown")
        return container

    def containers(self) -> list[Container]:
        """All created containers."""
        with self._lock:
            return [container for container in self._containers.values() if container is not None]

    def count(self) -> int:
        """How many containers there are."""
        return len(self.containers())

    def remove(self, container_id: str, timeout: float | None) -> None:
        """End and forget a container, and what was copied for it, even if it never came to be."""
        try:
            self.get(container_id).remove(timeout)
            with self._lock:
                self._containers.pop(container_id, None)
        finally:
            if container_id not in self._containers:
                self._forget_copies(container_id)

    def _forget_copies(self, container_id: str) -> None:
        with self._lock:
            copied = self._copied
        if copied is not None:
            copied.forget(container_id)

    def destroy(self) -> None:
        """End everything that runs. What follows is the end of the machine, so nothing is waited for."""
        for container in self.containers():
            container.init.kill(signal.SIGKILL)
        if self._holder is not None:
            self._holder.kill()
        self.volumes.clear()

    def _reserve(self, container_id: str) -> None:
        """Claim the id, so that two requests cannot build in one directory."""
        if _CONTAINER_ID.fullmatch(container_id) is None or container_id in RESERVED:
            raise UsageError(f"{container_id[:64]!r} is no container id", code="container.id")
        with self._lock:
            if container_id in self._containers:
                raise ConflictError(f"container {container_id} exists already", code="container.exists")
            if len(self._containers) >= MAX_CONTAINERS:
                raise UsageError(f"a guest holds {MAX_CONTAINERS} containers at most", code="container.many")
            self._containers[container_id] = None

    def _create(self, container_id: str, request: Message) -> Container:
        directory = os.path.join(self._root, container_id)
        rootfs_path = os.path.join(directory, "rootfs")
        reference = merge.image(request, rootfs_path)
        spec.refuse(request.OCI, privileged=self.privileged)
        self._set_parameters(request.OCI.Linux)
        for storage in request.storages:
            if storage.driver != IMAGE_GUEST_PULL:
                self.volumes.make(storage)
        image = self._pull(reference)
        try:
            os.makedirs(directory, mode=0o700)
            rootfs.mount_overlay(image.layers, directory, rootfs_path)
            process = merge.process(request, image.config, rootfs_path)
            bundle = self._bundle(container_id, request, directory)
            document = spec.compose(request.OCI, process, bundle)
            with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
                json.dump(document, file)
            container = self._launch(container_id, directory, rootfs_path, document["process"])
            container.message = mounts.termination_log(request.OCI, bundle.volumes)
            container.image = image.directory
            return container
        except BaseException:
            rootfs.remove(directory, rootfs_path, image.directory)
            raise

    def _bundle(self, container_id: str, request: Message, directory: str) -> spec.Bundle:
        rootfs_path = os.path.join(directory, "rootfs")
        shm = os.path.join(self._directory, "shm")
        asked = mounts.volumes(request.OCI, shm)
        sources = Sources(self.volumes, rootfs_path)
        sources.check(asked)
        shared = {kind: path for kind, path in self._namespaces.paths.items() if kind != PID}
        if request.sandbox_pidns:
            shared[PID] = self._shared_pids()
        return spec.Bundle(
            container_id,
            rootfs_path,
            self._hostname,
            self._files,
            mounts.stage(asked, directory, sources.open),
            shared,
            shm if self.volumes.has(shm) else "",
            self.privileged,
        )

    def _launch(
        self, container_id: str, directory: str, rootfs_path: str, process: dict[str, Any]
    ) -> Container:
        try:
            with (
                Opening(os.path.join(directory, "init"), process, silent=self._silent) as streams,
                self.creating,
            ):
                self._reaper.forget_unclaimed()
                pid = self._runtime.create(container_id, directory, streams.child, streams.console)
                stdio = streams.take()
                self._reaper.claim(pid)
            return Container(
                container_id, directory, rootfs_path, stdio, pid, self._runtime, silent=self._silent
            )
        except BaseException as exc:
            with contextlib.suppress(Exception):
                self._runtime.delete(container_id, directory)
            if isinstance(exc, OSError):
                raise OperationError(f"cannot create the container: {exc.strerror}") from exc
            raise

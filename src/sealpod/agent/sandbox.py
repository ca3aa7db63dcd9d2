# SPDX-License-Identifier: Apache-2.0
"""The pod inside the guest: its name and files, and its containers by id.

What lies below ``root`` (``/run/kata-containers``)::

    sandbox/{resolv.conf,hosts}    shown in every container
    image/<n>/<layer>              unpacked images
    <container>/config.json        OCI bundle; also upper, work and rootfs of its overlay

Nothing half-made stays: a container whose creation fails is taken apart again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from typing import Final

from sealpod.agent import network, rootfs, spec
from sealpod.agent.container import Container
from sealpod.agent.images import Puller
from sealpod.agent.reaper import Reaper
from sealpod.agent.runtime import Runtime
from sealpod.agent.stdio import Stdio
from sealpod.errors import ConflictError, NotFoundError, OperationError, UsageError
from sealpod.wire.message import Message

ROOT: Final = "/run/kata-containers"
"""Kata's place, which storages name in their mount points."""
RESOLV_CONF: Final = "/etc/resolv.conf"
IMAGE_GUEST_PULL: Final = "image_guest_pull"
RESERVED: Final = ("sandbox", "image", "shared")
MAX_CONTAINERS: Final = 64

_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_HOSTNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")


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
    ) -> None:
        self._pull = puller
        self._reaper = reaper
        self._runtime = runtime
        self._root = root
        self._resolv_conf = resolv_conf
        self._hostname = "localhost"
        self._files: tuple[tuple[str, str], ...] = ()
        self._lock = threading.Lock()
        self._creating = threading.Lock()
        self._containers: dict[str, Container | None] = {}

    def configure(self, hostname: str, dns: list[str]) -> None:
        """Set the pod's host name and name servers, for the guest itself and for containers."""
        if hostname:
            if _HOSTNAME.fullmatch(hostname) is None:
                raise UsageError(f"{hostname!r} is no host name", code="sandbox.hostname")
            socket.sethostname(hostname)
            self._hostname = hostname
        directory = os.path.join(self._root, "sandbox")
        os.makedirs(directory, mode=0o755, exist_ok=True)
        hosts = os.path.join(directory, "hosts")
        _write(hosts, f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {self._hostname}\n")
        resolv = os.path.join(directory, "resolv.conf")
        _write(resolv, network.resolv_conf(dns))
        _write(self._resolv_conf, network.resolv_conf(dns))
        self._files = ((resolv, "/etc/resolv.conf"), (hosts, "/etc/hosts"))

    def create(self, request: Message) -> None:
        """Pull the image and create the container (``CreateContainerRequest``)."""
        container_id = request.container_id
        self._reserve(container_id)
        try:
            container = self._create(container_id, request)
        except BaseException:
            with self._lock:
                del self._containers[container_id]
            raise
        with self._lock:
            self._containers[container_id] = container
        container.watch(self._reaper)

    def get(self, container_id: str) -> Container:
        """A created container. Raises :class:`NotFoundError` (``container.unknown``)."""
        with self._lock:
            container = self._containers.get(container_id)
        if container is None:
            raise NotFoundError(f"no container {container_id!r}", code="container.unknown")
        return container

    def remove(self, container_id: str, timeout: float | None) -> None:
        """End and forget a container."""
        self.get(container_id).remove(timeout)
        with self._lock:
            self._containers.pop(container_id, None)

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
        reference = _image(request, rootfs_path)
        image = self._pull(reference)
        try:
            os.makedirs(directory, mode=0o700)
            rootfs.mount_overlay(image.layers, directory, rootfs_path)
            process = _process(request, image.config, rootfs_path)
            bundle = spec.Bundle(container_id, rootfs_path, self._hostname, self._files)
            document = spec.compose(request.OCI, process, bundle)
            _write(os.path.join(directory, "config.json"), json.dumps(document))
            return self._launch(container_id, directory, rootfs_path)
        except BaseException:
            rootfs.remove(directory, rootfs_path)
            raise

    def _launch(self, container_id: str, directory: str, rootfs_path: str) -> Container:
        stdio = Stdio()
        try:
            # One at a time: a status nobody asked for might be that of the container about to appear.
            with self._creating:
                self._reaper.forget_unclaimed()
                pid = self._runtime.create(container_id, directory, stdio.child)
            return Container(container_id, directory, rootfs_path, stdio, pid, self._runtime)
        except BaseException as exc:
            stdio.close()
            with contextlib.suppress(Exception):
                self._runtime.delete(container_id, directory)
            if isinstance(exc, OSError):
                raise OperationError(f"cannot create the container: {exc.strerror}") from exc
            raise
        finally:
            stdio.close_child()


def _image(request: Message, rootfs_path: str) -> str:
    """The image reference in the request's storages."""
    references = []
    for storage in request.storages:
        if storage.driver != IMAGE_GUEST_PULL:
            raise UsageError(f"storage driver {storage.driver!r} is not supported", code="container.storage")
        if storage.mount_point != rootfs_path:
            text = f"an image's root file system belongs at {rootfs_path}, not {storage.mount_point!r}"
            raise UsageError(text, code="container.storage")
        references.append(storage.source)
    if len(references) != 1:
        raise UsageError(
            f"a container needs one image, the request names {len(references)}",
            code="container.storage",
            remedy=f"add one storage with the driver {IMAGE_GUEST_PULL}",
        )
    return str(references[0])


def _process(request: Message, config: object, rootfs_path: str) -> spec.Process:
    """The request's process over the image's configuration.

    Arguments replace the image's command whole, as in Kata, where the caller has already merged them.
    """
    from sealpod.image.runtime import resolve_process
    from sealpod.oci.config import ImageConfig

    if not isinstance(config, ImageConfig):
        raise TypeError(f"a puller returned a configuration of type {type(config).__name__}")
    asked = request.OCI.Process
    resolved = resolve_process(
        config,
        rootfs_path,
        command=tuple(asked.Args),
        env=tuple(asked.Env),
        cwd=asked.Cwd if asked.Cwd != "/" else "",
        user=_user(request),
    )
    who = resolved.user
    gids = (*who.additional_gids, *asked.User.AdditionalGids)
    return spec.Process(resolved.args, resolved.env, resolved.cwd, who.uid, who.gid, gids)


def _user(request: Message) -> str:
    """The user asked for, as ``user[:group]``; empty means the image's.

    Zero in ``OCI.Process.User`` is also what an unset field reads as: asking for root takes ``string_user``.
    """
    named = request.string_user
    if named.uid:
        return f"{named.uid}:{named.gid}" if named.gid else str(named.uid)
    numbers = request.OCI.Process.User
    if numbers.UID or numbers.GID:
        return f"{numbers.UID}:{numbers.GID}"
    return str(numbers.Username)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)

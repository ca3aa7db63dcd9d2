# SPDX-License-Identifier: Apache-2.0
"""Which image a container is of, asked in turn: its annotations, its root file system's mount, containerd."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Final

from sealpod.errors import UsageError
from sealpod.shim.agentspec import VOLUME_OPTION, image_name
from sealpod.shim.context import ShimContext
from sealpod.wire.message import Message
from sealpod.wire.taskapi import MESSAGES

GET: Final = "/containerd.services.containers.v1.Containers/Get"
SECONDS: Final = 10.0
DUMMY: Final = "dummy-image-reference"


async def find(
    annotations: Mapping[str, str], rootfs: Iterable[Message], context: ShimContext, container_id: str
) -> str:
    """The image's reference. UsageError (``shim.no-image``) when nobody knows it."""
    name = image_name(annotations) or _of_mounts(rootfs) or await _of_containerd(context, container_id)
    if name:
        return name
    raise UsageError(
        "the container names no image the guest could pull",
        code="shim.no-image",
        remedy="create it from an image; a root file system of the host is not shown to the guest",
    )


def _of_mounts(rootfs: Iterable[Message]) -> str:
    for mount in rootfs:
        for option in mount.options:
            if option.startswith(VOLUME_OPTION):
                try:
                    source = json.loads(base64.b64decode(option.removeprefix(VOLUME_OPTION))).get("source")
                except (ValueError, AttributeError):
                    continue
                if isinstance(source, str) and source != DUMMY:
                    return source
    return ""


async def _of_containerd(context: ShimContext, container_id: str) -> str:
    """The image in containerd's own record, which ``ctr run`` makes before the task."""
    import grpc
    import grpc.aio

    request = MESSAGES.new("GetContainerRequest", id=container_id).encode()
    async with grpc.aio.insecure_channel(f"unix://{context.address}") as channel:
        call = channel.unary_unary(GET)
        try:
            answer = await call(
                request, timeout=SECONDS, metadata=(("containerd-namespace", context.namespace),)
            )
        except grpc.aio.AioRpcError:
            return ""
    return str(MESSAGES.decode("GetContainerResponse", bytes(answer)).container.image)

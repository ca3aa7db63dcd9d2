# SPDX-License-Identifier: Apache-2.0
"""Image names as skopeo writes them: ``docker://host:port/name:tag`` and ``oci:directory[:tag]``.

Docker's own file formats are refused by name, because they cannot carry what an encrypted layer needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from sealpod.errors import UsageError
from sealpod.image.ports import ImageSink, ImageSource
from sealpod.oci.reference import ImageReference
from sealpod.record import Record
from sealpod.registry.client import Credentials, RegistryClient
from sealpod.registry.connection import Connections
from sealpod.registry.http import RegistrySink, RegistrySource
from sealpod.registry.layout import LayoutSink, LayoutSource

DOCKER: Final = "docker"
OCI: Final = "oci"
_UNFIT: Final = ("docker-archive", "docker-daemon", "dir", "oci-archive", "containers-storage")


class Access(Record):
    """How registries may be reached."""

    insecure: Collection[str] = ()
    """Hosts (``host`` or ``host:port``) that may be spoken to without TLS."""
    plain_loopback: bool = True
    """Whether this machine's own registry may be spoken to without TLS; right on a host, not in a guest."""
    credentials: Callable[[ImageReference], Credentials | None] = lambda _: None
    """The account for a reference, if there is one."""


class OpenSource(NamedTuple):
    """An image to read: where, and which of the images there."""

    source: ImageSource
    selector: str


class OpenSink(NamedTuple):
    """An image to write: where, and under which tag."""

    sink: ImageSink
    selector: str


def open_source(name: str, access: Access | None = None) -> OpenSource:
    """The image ``name`` to read. UsageError for an unknown transport, DecodeError for a bad reference."""
    transport, rest = _split(name)
    if transport == OCI:
        directory, tag = _split_layout(rest)
        return OpenSource(LayoutSource(directory), tag)
    reference = ImageReference.parse(rest)
    return OpenSource(registry_source(reference, access), reference.selector)


def open_sink(name: str, access: Access | None = None) -> OpenSink:
    """The image ``name`` to write. A digest cannot be chosen: UsageError."""
    transport, rest = _split(name)
    if transport == OCI:
        directory, tag = _split_layout(rest)
        return OpenSink(LayoutSink(directory), tag)
    reference = ImageReference.parse(rest)
    if reference.digest is not None:
        raise UsageError(f"cannot write to a digest: {name}", remedy="name a tag instead")
    return OpenSink(RegistrySink(_client(reference, access or Access())), reference.selector)


def registry_source(reference: ImageReference, access: Access | None = None) -> ImageSource:
    """The repository of ``reference`` as a source. A guest turns ``access.plain_loopback`` off."""
    return RegistrySource(_client(reference, access or Access()))


def _client(reference: ImageReference, access: Access) -> RegistryClient:
    connections = Connections(access.insecure, plain_loopback=access.plain_loopback)
    return RegistryClient(
        reference.registry,
        reference.repository,
        connections=connections,
        credentials=access.credentials(reference),
    )


def _split(name: str) -> tuple[str, str]:
    transport, colon, rest = name.partition(":")
    if transport == DOCKER and rest.startswith("//") and len(rest) > 2:
        return transport, rest[2:]
    if transport == OCI and rest:
        return transport, rest
    if colon and transport in _UNFIT:
        raise UsageError(
            f"the transport {transport}: is not supported",
            code="image.transport",
            remedy="use oci:DIRECTORY[:TAG] or docker://HOST[:PORT]/NAME[:TAG]; Docker's formats cannot carry"
            " the annotations of an encrypted layer",
        )
    raise UsageError(
        f"not an image name: {name[:200]!r}",
        code="image.transport",
        remedy="write oci:DIRECTORY[:TAG] or docker://HOST[:PORT]/NAME[:TAG]",
    )


def _split_layout(rest: str) -> tuple[str, str]:
    """Directory and tag, split at the first colon as skopeo does; a path with a colon needs a link to it."""
    directory, _, tag = rest.partition(":")
    if not directory:
        raise UsageError("oci: without a directory", code="image.transport")
    return directory, tag

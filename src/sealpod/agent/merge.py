# SPDX-License-Identifier: Apache-2.0
"""What a container runs: the request's wishes over the image's configuration."""

from __future__ import annotations

from typing import Final

from sealpod.agent import spec
from sealpod.errors import UsageError
from sealpod.wire.message import Message

IMAGE_GUEST_PULL: Final = "image_guest_pull"
CODE: Final = "container.storage"


def image(request: Message, rootfs_path: str) -> str:
    """The image reference in the request's storages."""
    references = []
    for storage in request.storages:
        if storage.driver != IMAGE_GUEST_PULL:
            continue
        if storage.mount_point != rootfs_path:
            text = f"an image's root file system belongs at {rootfs_path}, not {storage.mount_point!r}"
            raise UsageError(text, code=CODE)
        references.append(storage.source)
    if len(references) != 1:
        raise UsageError(
            f"a container needs one image, the request names {len(references)}",
            code=CODE,
            remedy=f"add one storage with the driver {IMAGE_GUEST_PULL}",
        )
    return str(references[0])


def process(request: Message, config: object, rootfs_path: str) -> spec.Process:
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
        # From a host that leaves the rest to the image, "/" is what it says when it does not know.
        cwd=asked.Cwd if asked.Cwd != "/" or spec.describes_all(asked) else "",
        user=user(request.string_user, asked.User),
    )
    who = resolved.user
    # containerd adds the own group to the others, so that a right denied to it stays denied; where only the
    # image knows it, it cannot.
    asked_for = request.string_user
    own = (who.gid,) if asked_for.uid and not (asked_for.uid.isdecimal() and asked_for.gid) else ()
    gids = tuple(dict.fromkeys((*own, *who.additional_gids, *groups(request.string_user, asked.User))))
    return spec.Process(resolved.args, resolved.env, resolved.cwd, who.uid, who.gid, gids)


def user(named: Message, numbers: Message) -> str:
    """The user asked for, as ``user[:group]``; empty means the image's.

    Zero in ``OCI.Process.User`` is also what an unset field reads as: asking for root takes ``string_user``.
    """
    if named.uid:
        return f"{named.uid}:{named.gid}" if named.gid else str(named.uid)
    if numbers.UID or numbers.GID:
        return f"{numbers.UID}:{numbers.GID}"
    return str(numbers.Username)


def groups(named: Message, numbers: Message) -> tuple[int, ...]:
    """Further groups of the process, by number. Raises :class:`UsageError` for a name."""
    for text in named.additionalGids:
        if not (text.isascii() and text.isdigit() and int(text[:11]) < 1 << 32 and len(text) < 11):
            raise UsageError(f"{text[:64]!r} is no number of a group", code="container.spec")
    return (*(int(text) for text in named.additionalGids), *numbers.AdditionalGids)

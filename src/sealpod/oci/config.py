# SPDX-License-Identifier: Apache-2.0
"""Image configurations (OCI image spec, config.md): what to run, and the digests of the unpacked layers.

Encryption leaves this document as it is and in the clear: environment and labels are no place for secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sealpod.errors import DecodeError
from sealpod.oci.descriptor import nothing
from sealpod.oci.digest import Digest
from sealpod.oci.manifest import MAX_LAYERS
from sealpod.record import Record, field
from sealpod.wire import strictjson

MAX_CONFIG: Final = 4 * 1024 * 1024  # bytes; as the manifest's limit


class ImageConfig(Record):
    """The members of a configuration that matter at run time; absent lists are empty, absent texts ``""``."""

    architecture: str = "amd64"
    os: str = "linux"
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=nothing)
    diff_ids: tuple[Digest, ...] = ()
    stop_signal: str = ""

    @classmethod
    def decode(cls, data: bytes) -> ImageConfig:
        """The configuration in ``data``, at most 4 MiB; DecodeError otherwise."""
        document = strictjson.parse_object(data, what="image configuration", limit=MAX_CONFIG)
        what = "image configuration"
        run = strictjson.member(document, "config", what=what)
        return cls(
            architecture=strictjson.optional_text(document, "architecture", what=what),
            os=strictjson.optional_text(document, "os", what=what),
            env=_texts(run, "Env"),
            entrypoint=_texts(run, "Entrypoint"),
            cmd=_texts(run, "Cmd"),
            working_dir=_no_nul(strictjson.optional_text(run, "WorkingDir", what=what)),
            user=_no_nul(strictjson.optional_text(run, "User", what=what)),
            labels=strictjson.text_map(run, "Labels", what=what),
            diff_ids=_diff_ids(strictjson.member(document, "rootfs", what=what)),
            stop_signal=_no_nul(strictjson.optional_text(run, "StopSignal", what=what)),
        )


def _texts(document: dict[str, object], name: str) -> tuple[str, ...]:
    values = strictjson.array(document, name, str, what="image configuration")
    return tuple(_no_nul(value) for value in values)


def _no_nul(value: str) -> str:
    """These become arguments and environment of a process, where a NUL would cut them."""
    if "\0" in value:
        raise DecodeError("image configuration: a NUL byte in a value")
    return value


def _diff_ids(rootfs: dict[str, object]) -> tuple[Digest, ...]:
    values = strictjson.array(rootfs, "diff_ids", str, what="image configuration, rootfs")
    if len(values) > MAX_LAYERS:
        raise DecodeError(f"image configuration has {len(values)} diff_ids, more than {MAX_LAYERS}")
    return tuple(Digest.parse(value) for value in values)

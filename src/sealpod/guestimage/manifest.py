# SPDX-License-Identifier: Apache-2.0
"""``guest.json``: what a guest image was made from and what came out, by SHA-256.

Example::

    {"schemaVersion": 1, "kernelRelease": "6.12.95+deb12-cloud-amd64",
     "inputs": [{"kind": "deb", "name": "crun", "version": "1.8.1-1", "sha256": "..."}, ...],
     "sources": {"agent/main.py": "<sha256>", ...},
     "outputs": {"initrd": {"file": "initrd.img", "size": 17000000, "sha256": "..."}, ...}}

``sources`` are paths inside the package ``sealpod``. The same inputs and sources give the same outputs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sealpod.errors import DecodeError

SCHEMA_VERSION: Final = 1
FILE_NAME: Final = "guest.json"
MAX_SIZE: Final = 1 << 20  # bytes; a manifest has about 20 KiB


@dataclass(frozen=True, slots=True)
class Input:
    """One file that went in: ``kind`` is ``deb``, ``wheel``, or ``file`` for one given to the build."""

    kind: str
    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Output:
    """One built file, named relative to the manifest; ``size`` in bytes."""

    file: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: str) -> Output:
        """Hash the file at ``path``."""
        return cls(os.path.basename(path), os.path.getsize(path), file_sha256(path))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of ``guest.json``; ``outputs`` holds at least ``kernel`` and ``initrd``."""

    kernel_release: str
    inputs: tuple[Input, ...]
    sources: Mapping[str, str]
    outputs: Mapping[str, Output]

    def encode(self) -> str:
        """The JSON text, the same for equal manifests."""
        document = {
            "schemaVersion": SCHEMA_VERSION,
            "kernelRelease": self.kernel_release,
            "inputs": [
                {"kind": i.kind, "name": i.name, "version": i.version, "sha256": i.sha256}
                for i in sorted(self.inputs, key=lambda item: (item.kind, item.name))
            ],
            "sources": dict(sorted(self.sources.items())),
            "outputs": {
                name: {"file": o.file, "size": o.size, "sha256": o.sha256}
                for name, o in sorted(self.outputs.items())
            },
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def decode(cls, text: str) -> Manifest:
        """Read a manifest; raises :class:`DecodeError` for anything else, a newer schema included."""
        try:
            document = json.loads(text)
            version = document["schemaVersion"]
            if version != SCHEMA_VERSION:
                raise DecodeError(f"guest image manifest has schema {version}, not {SCHEMA_VERSION}")
            return cls(
                str(document["kernelRelease"]),
                tuple(Input(**{key: str(value) for key, value in i.items()}) for i in document["inputs"]),
                {str(path): str(digest) for path, digest in document["sources"].items()},
                {
                    str(name): Output(_base_name(o["file"]), int(o["size"]), str(o["sha256"]))
                    for name, o in document["outputs"].items()
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DecodeError(f"guest image manifest is malformed ({type(error).__name__})") from error


def _base_name(name: object) -> str:
    # An output stands beside its manifest; a path would let a manifest point anywhere.
    if not isinstance(name, str) or not name or "/" in name or name in (".", ".."):
        raise ValueError("not a file name")
    return name


def file_sha256(path: str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

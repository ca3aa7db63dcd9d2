# SPDX-License-Identifier: Apache-2.0
"""A small image to demonstrate with: busybox and a message that must not be readable outside the guest.

The message stands in a file of the layer, not in the environment: an image's configuration is never
encrypted.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import Final

from sealpod.image.ports import ImageSink, RawManifest
from sealpod.oci import mediatypes
from sealpod.oci.digest import Digest

MESSAGE_FILE: Final = "etc/message"
BUSYBOX_FILE: Final = "bin/busybox"
LAYER_TYPE: Final = f"{mediatypes.OCI_LAYER}+gzip"


def build_image(sink: ImageSink, tag: str, busybox: bytes, message: str) -> None:
    """Write an image whose command prints ``message`` to ``sink`` under ``tag``."""
    layer = _layer(busybox, message)
    compressed = gzip.compress(layer, mtime=0)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox"], "Cmd": ["cat", f"/{MESSAGE_FILE}"]},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "config": _put(sink, mediatypes.OCI_CONFIG, _json(config)),
        "layers": [_put(sink, LAYER_TYPE, compressed)],
    }
    sink.put_manifest(tag, RawManifest(mediatypes.OCI_MANIFEST, _json(manifest)))


def _layer(busybox: bytes, message: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for directory in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, content, mode in (
            (BUSYBOX_FILE, busybox, 0o755),
            (MESSAGE_FILE, f"{message}\n".encode(), 0o644),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(link)
    return buffer.getvalue()


def _put(sink: ImageSink, media_type: str, data: bytes) -> dict[str, object]:
    digest, size = sink.put_blob(io.BytesIO(data))
    return {"mediaType": media_type, "digest": str(digest), "size": size}


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()

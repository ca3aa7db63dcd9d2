# SPDX-License-Identifier: Apache-2.0
"""Images for tests: a store in memory, one that fails, builders for layers, and a picture of a tree."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sealpod.errors import NotFoundError, UnavailableError
from sealpod.image.ports import ByteStream, ImageSink, ImageSource, RawManifest
from sealpod.oci import mediatypes
from sealpod.oci.descriptor import Descriptor
from sealpod.oci.digest import Digest
from sealpod.ocicrypt import keywrap
from sealpod.ocicrypt.packet import AnnotationPacket
from sealpod.secret import SecretBytes

KEK = SecretBytes(b"passphrasewhichneedstobe32bytes!")
GZIP_LAYER = f"{mediatypes.OCI_LAYER}+gzip"


def unwrapper(key: SecretBytes = KEK) -> Callable[[AnnotationPacket], SecretBytes]:
    """What a key broker client does, with one key for every id."""
    return lambda packet: keywrap.unwrap(key, packet)


@dataclass
class MemoryStore:
    """Source and sink over two dictionaries. Reads hand out uneven pieces, as sockets do."""

    manifests: dict[str, RawManifest] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    piece: int = 0  # bytes per read, 0: as asked

    def manifest(self, selector: str) -> RawManifest:
        if selector not in self.manifests:
            raise NotFoundError(f"no image at {selector}", code="image.not-found")
        return self.manifests[selector]

    def blob(self, descriptor: Descriptor) -> ByteStream:
        data = self.blobs.get(str(descriptor.digest))
        if data is None:
            raise NotFoundError(f"no blob {descriptor.digest}", code="image.blob-not-found")
        return Pieces(data, self.piece)

    def has_blob(self, descriptor: Descriptor) -> bool:
        return str(descriptor.digest) in self.blobs

    def put_blob(self, stream: ByteStream) -> tuple[Digest, int]:
        data = b"".join(iter(lambda: stream.read(65536), b""))
        self.blobs[str(Digest.of(data))] = data
        return Digest.of(data), len(data)

    def put_manifest(self, selector: str, manifest: RawManifest) -> None:
        self.manifests[selector] = self.manifests[str(manifest.digest)] = manifest

    def reader(self) -> ImageSource:
        return self


class Pieces:
    """Bytes as a stream of pieces of at most ``piece`` bytes."""

    def __init__(self, data: bytes, piece: int = 0) -> None:
        self._file = io.BytesIO(data)
        self._piece = piece
        self.closed = False

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._piece) if self._piece else size)

    def close(self) -> None:
        self.closed = True


@dataclass
class FailingStore(MemoryStore):
    """A store whose blobs break off after some bytes, and that takes no blob either."""

    after: int = 0

    def blob(self, descriptor: Descriptor) -> ByteStream:
        return _Breaking(super().blob(descriptor), self.after)

    def put_blob(self, stream: ByteStream) -> tuple[Digest, int]:
        raise UnavailableError("the store is gone", code="registry.unreachable")


class _Breaking:
    def __init__(self, stream: ByteStream, after: int) -> None:
        self._stream = stream
        self._left = after

    def read(self, size: int, /) -> bytes:
        if self._left <= 0:
            raise UnavailableError("the connection broke", code="registry.unreachable")
        data = self._stream.read(min(size, self._left))
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._stream.close()


def member(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    """One member for :func:`make_tar`; ``fields`` are attributes of TarInfo."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(content)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.mtime = 1_600_000_000
    for field_name, value in fields.items():
        setattr(info, field_name, value)
    return info, content


def make_tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of ``members`` in order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def put_image(
    sink: ImageSink,
    tag: str,
    layers: Iterable[bytes],
    *,
    compress: Callable[[bytes], bytes] | None = lambda tar: gzip.compress(tar, compresslevel=1, mtime=0),
    layer_type: str = "",
    manifest_type: str = mediatypes.OCI_MANIFEST,
    config_type: str = mediatypes.OCI_CONFIG,
    config: dict[str, object] | None = None,
    architecture: str = "amd64",
) -> RawManifest:
    """Write an image of the given tar archives; the manifest as written."""
    tars = list(layers)
    blobs = [tar if compress is None else compress(tar) for tar in tars]
    document = {
        "architecture": architecture,
        "os": "linux",
        "config": config or {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in tars]},
    }
    kind = layer_type or (mediatypes.OCI_LAYER if compress is None else GZIP_LAYER)
    body = _json(
        {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": _put(sink, config_type, _json(document)),
            "layers": [_put(sink, kind, blob) for blob in blobs],
        }
    )
    raw = RawManifest(manifest_type, body)
    sink.put_manifest(tag, raw)
    return raw


def _put(sink: ImageSink, media_type: str, data: bytes) -> dict[str, object]:
    digest, size = sink.put_blob(Pieces(data))
    return {"mediaType": media_type, "digest": str(digest), "size": size}


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def sample_layers() -> list[bytes]:
    """Two layers with a file each, small enough for exhaustive damage."""
    return [
        make_tar([member("etc", tarfile.DIRTYPE), member("etc/motd", content=b"hello from below\n")]),
        make_tar(
            [
                member("etc/motd", content=os.urandom(600)),
                member("run.sh", content=b"#!/bin/sh\n", mode=0o4755),
            ]
        ),
    ]


def picture(root: str, *, times: bool = True) -> dict[str, tuple[object, ...]]:
    """Everything observable about the tree at ``root``: two equal pictures are equal trees."""
    inodes: dict[int, str] = {}
    result: dict[str, tuple[object, ...]] = {}
    for path in sorted(_walk(root)):
        full = os.path.join(root, path)
        found = os.lstat(full)
        first = inodes.setdefault(found.st_ino, path) if not stat.S_ISDIR(found.st_mode) else ""
        result[path] = (
            oct(found.st_mode),
            found.st_uid,
            found.st_gid,
            found.st_rdev if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode) else 0,
            found.st_mtime_ns if times else 0,
            _content(full, found.st_mode),
            tuple(sorted((name, os.getxattr(full, name, follow_symlinks=False)) for name in _xattrs(full))),
            first if first != path else "",
        )
    return result


def _walk(root: str) -> Iterator[str]:
    yield "."
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            yield os.path.relpath(os.path.join(directory, name), root)


def _content(path: str, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if stat.S_ISREG(mode):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _xattrs(path: str) -> list[str]:
    return [
        name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("security.selinux")
    ]


@contextmanager
def overlay(layers: Iterable[str], target: str) -> Iterator[str]:
    """The layers (bottom first) mounted at ``target``; OSError if this kernel or container will not."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    options = "lowerdir=" + ":".join([*reversed(list(layers)), os.path.join(target, "..", "empty")])
    os.makedirs(os.path.join(target, "..", "empty"), exist_ok=True)
    os.makedirs(target, exist_ok=True)
    if libc.mount(b"overlay", target.encode(), b"overlay", 1, options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number or errno.EIO, os.strerror(number))
    try:
        yield target
    finally:
        libc.umount2(target.encode(), 2)

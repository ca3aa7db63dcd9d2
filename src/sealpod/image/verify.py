# SPDX-License-Identifier: Apache-2.0
"""Streams with a verdict: bytes pass through, and the read that meets the end raises if they were not right.

A consumer that stops early has verified nothing; :func:`drain` reads what is left. Sizes are checked as the
bytes arrive, so that an endless blob is refused at its declared size and not when memory is gone.
"""

from __future__ import annotations

from typing import Final

from sealpod.errors import VerificationError
from sealpod.image.ports import CHUNK, ByteStream, Progress
from sealpod.oci.digest import Digest
from sealpod.ocicrypt.cipher import Decryptor

# What each check is of, and the code of its digest's mismatch.
_CHECKS: Final = {
    "config": ("configuration", "image.config-digest"),
    "blob": ("layer's blob", "image.blob-digest"),
    "layer": ("decrypted layer", "image.layer-digest"),
    "diff-id": ("unpacked layer", "image.diff-id"),
}
ENCRYPTED: Final = "layer"
"""The check whose digest came encrypted, and is not for the host to read."""


class VerifyingReader:
    """Passes ``stream`` through; at the end its size and digest must be those given.

    ``check`` is a name of ``_CHECKS``. VerificationError with code ``image.<check>-size`` or the digest's
    code; ``size`` may be unknown.
    """

    def __init__(self, stream: ByteStream, digest: Digest, size: int | None, *, check: str) -> None:
        self._stream = stream
        self._digest = digest
        self._size = size
        self._check = check
        self._noun, self._code = _CHECKS[check]
        self._hasher = digest.hasher()
        self._seen = 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        if not data:
            self._verdict()
            return data
        self._hasher.update(data)
        self._seen += len(data)
        if self._size is not None and self._seen > self._size:
            raise self._wrong_size("more than")
        return data

    def close(self) -> None:
        self._stream.close()

    def _verdict(self) -> None:
        if self._size is not None and self._seen != self._size:
            raise self._wrong_size(f"{self._seen} instead of")
        if not self._digest.matches(self._hasher):
            raise VerificationError(
                f"the {self._noun} does not have the digest {self._named()}",
                code=self._code,
                remedy="it was changed or damaged on the way; push the image again",
            )

    def _named(self) -> str:
        if self._check == ENCRYPTED:
            return "that its key packet says"
        return f"{self._digest} but {self._digest.algorithm}:{self._hasher.hexdigest()}"

    def _wrong_size(self, relation: str) -> VerificationError:
        return VerificationError(
            f"the {self._noun}{'' if self._check == ENCRYPTED else f' {self._digest}'} has {relation}"
            f" {self._size} bytes",
            code=f"image.{self._check}-size",
            remedy="it was changed or damaged on the way; push the image again",
        )


class DecryptingReader:
    """Decrypts ``stream``; the last bytes come only after the HMAC's verdict (``image.hmac``)."""

    def __init__(self, stream: ByteStream, decryptor: Decryptor) -> None:
        self._stream = stream
        self._decryptor = decryptor
        self._ready = b""
        self._finished = False

    def read(self, size: int, /) -> bytes:
        while not self._ready and not self._finished:
            data = self._stream.read(size)
            self._finished = not data
            self._ready = self._decryptor.update(data) if data else self._decryptor.finish()
        result, self._ready = self._ready[:size], self._ready[size:]
        return result

    def close(self) -> None:
        self._stream.close()


class ReportingReader:
    """Passes a stream through and tells how far it is."""

    def __init__(self, stream: ByteStream, what: str, total: int, progress: Progress | None) -> None:
        self._stream = stream
        self._what = what
        self._total = total
        self._progress = progress
        self._done = 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._done += len(data)
        if self._progress is not None:
            self._progress(self._what, self._done, self._total)
        return data

    def close(self) -> None:
        self._stream.close()


def drain(stream: ByteStream) -> None:
    """Read to the end, so that the verdict falls."""
    while stream.read(CHUNK):
        pass


def read_all(stream: ByteStream, limit: int) -> bytes:
    """Everything in ``stream``, which a size check below keeps to at most ``limit`` bytes."""
    parts: list[bytes] = []
    total = 0
    while data := stream.read(CHUNK):
        total += len(data)
        if total > limit:
            raise VerificationError(f"a document has more than {limit} bytes", code="image.document-size")
        parts.append(data)
    return b"".join(parts)

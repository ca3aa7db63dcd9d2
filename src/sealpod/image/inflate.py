# SPDX-License-Identifier: Apache-2.0
"""Decompression of layers: gzip (RFC 1952, any number of members) and zstd, with bounded output.

Only ``max_size`` bytes come out of a stream, and never more than one read asked for, so that a small blob
cannot fill memory. Zero bytes after the last gzip member are padding; anything else there is an error.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from sealpod.errors import DecodeError, OperationError
from sealpod.image.ports import CHUNK, ByteStream
from sealpod.oci import mediatypes

if TYPE_CHECKING:
    from zlib import _Decompress

_GZIP_WINDOW: Final = 31  # zlib's way to say: gzip header, 32 KiB window
_MAX_ZSTD_WINDOW: Final = 128 * 1024 * 1024  # bytes; `zstd --ultra` writes up to this without --long


def open_inflated(stream: ByteStream, compression: str, max_size: int) -> ByteStream:
    """The decompressed stream.

    DecodeError from ``read``: ``image.gzip``, ``image.zstd``, ``image.layer-limit``.
    """
    if compression == mediatypes.GZIP:
        return BoundedReader(_GunzipReader(stream), max_size)
    if compression == mediatypes.ZSTD:
        return BoundedReader(_ZstdReader(stream), max_size)
    return BoundedReader(stream, max_size)


class BoundedReader:
    """Refuses the byte after ``max_size``."""

    def __init__(self, stream: ByteStream, max_size: int) -> None:
        self._stream = stream
        self._left = max_size

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise DecodeError("the layer unpacks to more than the limit", code="image.layer-limit")
        return data

    def close(self) -> None:
        self._stream.close()


class _GunzipReader:
    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._inflater: _Decompress | None = zlib.decompressobj(_GZIP_WINDOW)
        self._input = b""
        self._ended = False  # the underlying stream

    def read(self, size: int, /) -> bytes:
        while True:
            if not self._input and not self._ended:
                self._input = self._stream.read(CHUNK)
                self._ended = not self._input
            if self._inflater is None and not self._next_member():
                return b""
            output = self._inflate(size)
            if output:
                return output

    def close(self) -> None:
        self._stream.close()

    def _next_member(self) -> bool:
        """Skip padding; a further member begins at the first byte that is not zero."""
        while True:
            self._input = self._input.lstrip(b"\0")
            if self._input:
                self._inflater = zlib.decompressobj(_GZIP_WINDOW)
                return True
            if self._ended:
                return False
            self._input = self._stream.read(CHUNK)
            self._ended = not self._input

    def _inflate(self, size: int) -> bytes:
        inflater = self._inflater
        if inflater is None:  # not reached: read() opens a member first
            return b""
        try:
            output = inflater.decompress(self._input, size)
        except zlib.error as error:
            raise DecodeError(f"the layer is not valid gzip: {error}", code="image.gzip") from error
        if inflater.eof:
            self._input = inflater.unused_data
            self._inflater = None
            return output
        # What `size` cut off stays in here or inside zlib, which gives it up even for empty input.
        self._input = inflater.unconsumed_tail
        if self._ended and not output:
            raise DecodeError("the layer's gzip data ends in the middle", code="image.gzip")
        return output


class _ZstdReader:
    def __init__(self, stream: ByteStream) -> None:
        import importlib

        try:
            zstandard = importlib.import_module("zstandard")
        except ImportError as error:
            raise OperationError(
                "the layer is compressed with zstd, which needs the Python package zstandard",
                code="image.zstd-missing",
                remedy="install zstandard, or build the image with gzip layers",
            ) from error
        self._stream = stream
        self._error: type[Exception] = zstandard.ZstdError
        self._reader: ByteStream = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW).stream_reader(
            stream, read_size=CHUNK, read_across_frames=True, closefd=False
        )

    def read(self, size: int, /) -> bytes:
        try:
            return self._reader.read(size)
        except self._error as error:
            raise DecodeError("the layer is not valid zstd", code="image.zstd") from error

    def close(self) -> None:
        self._stream.close()

# SPDX-License-Identifier: Apache-2.0
"""The snapshotter's process: a gRPC server on a private unix socket, until it is told to end."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn

import grpc

from sealpod.errors import DecodeError, SealpodError, UnavailableError
from sealpod.snapshotter import listening
from sealpod.snapshotter.placing import Placing
from sealpod.snapshotter.service import Snapshots
from sealpod.snapshotter.store import Store
from sealpod.snapshotter.users import CONTENT, ImageUsers
from sealpod.wire.message import Message
from sealpod.wire.snapshotapi import MESSAGES, METHODS, SNAPSHOTS
from sealpod.wire.status import to_status

THREADS: Final = 8
"""Calls worked on at once; most wait for one lock and the disk."""
MAX_CALLS: Final = 256
"""Calls accepted at once; gRPC answers RESOURCE_EXHAUSTED beyond it."""
MAX_MESSAGE: Final = 1 << 20
"""Bytes of a request; with all its labels at their limit one has half of it."""
MAX_DETAILS: Final = 1024
"""Characters of a status text; it travels as a header."""
GRACE: Final = 5.0
"""Seconds calls in progress have to end after a stop was asked for."""

FAILURES: Final = (SealpodError, OSError, sqlite3.Error)
"""What a call may end with; anything else is a fault of ours, which gRPC reports as UNKNOWN."""

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def serving(
    address: str, root: str, host_images: tuple[str, ...] = (), content: str = ""
) -> Iterator[grpc.Server]:
    """A server at the socket ``address`` that keeps its state below ``root``, for the length of the block.

    ``host_images`` are patterns of images this host unpacks itself; ``content`` is containerd's content
    store, beside the root where it is not given.
    """
    store = Store(root)
    try:
        listening.make_room(address)
        content = content or os.path.join(os.path.dirname(os.path.abspath(root)), CONTENT)
        server = _server(Snapshots(store, Placing(host_images), ImageUsers(content)))
        _bind(server, address)
        identity = listening.identify(address)
        server.start()
        try:
            yield server
        finally:
            server.stop(GRACE).wait()
            listening.remove(address, identity)
    finally:
        store.close()


def _server(service: Snapshots) -> grpc.Server:
    server = grpc.server(
        ThreadPoolExecutor(THREADS, thread_name_prefix="snapshots"),
        maximum_concurrent_rpcs=MAX_CALLS,
        options=(("grpc.max_receive_message_length", MAX_MESSAGE),),
    )
    server.add_generic_rpc_handlers((_handlers(service),))
    return server


def _bind(server: grpc.Server, address: str) -> None:
    # Nobody may connect between bind(2) and a chmod.
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{address}")
    except RuntimeError as error:
        raise UnavailableError(f"cannot listen on {address}", code="snapshotter.address") from error
    finally:
        os.umask(before)


def _handlers(service: Snapshots) -> grpc.GenericRpcHandler:
    table = {
        name: grpc.unary_unary_rpc_method_handler(_unary(name, function))
        for name, function in service.table().items()
    }
    table["List"] = grpc.unary_stream_rpc_method_handler(_stream("List", service.pages))
    return grpc.method_handlers_generic_handler(SNAPSHOTS, table)


def _unary(
    name: str, function: Callable[[Message], Message]
) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def call(payload: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return function(_decode(name, payload)).encode()
        except FAILURES as error:
            _abort(name, error, context)

    return call


def _stream(
    name: str, function: Callable[[Message], Iterator[Message]]
) -> Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]:
    def call(payload: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            for message in function(_decode(name, payload)):
                yield message.encode()
        except FAILURES as error:
            _abort(name, error, context)

    return call


def _decode(name: str, payload: bytes) -> Message:
    return MESSAGES.decode(METHODS[name][0], payload)


def _abort(name: str, error: SealpodError | OSError | sqlite3.Error, context: Any) -> NoReturn:
    """A status whose number containerd understands. The texts of NOT_FOUND and ALREADY_EXISTS stay bare."""
    if isinstance(error, DecodeError):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.one_line()[:MAX_DETAILS])
    if isinstance(error, SealpodError):
        text = error.one_line() if error.remedy else error.message
        context.abort(_CODES[to_status(error)[0]], text[:MAX_DETAILS])
    _logger.error("%s failed: %s: %s", name, type(error).__name__, error)
    context.abort(grpc.StatusCode.INTERNAL, f"{name} failed: {error}"[:MAX_DETAILS])
    raise AssertionError  # abort has raised

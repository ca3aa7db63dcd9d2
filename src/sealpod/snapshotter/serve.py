# SPDX-License-Identifier: Apache-2.0
"""The snapshotter's process: a gRPC server on a private unix socket, until it is told to end."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc

from sealpod.errors import ConflictError, SealpodError
from sealpod.snapshotter.service import Snapshots
from sealpod.snapshotter.store import Store
from sealpod.wire.message import Message
from sealpod.wire.snapshotapi import MESSAGES, METHODS, SNAPSHOTS
from sealpod.wire.status import to_status

THREADS: Final = 8
GRACE_SECONDS: Final = 5.0
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


@contextlib.contextmanager
def serving(address: str, root: str) -> Iterator[grpc.Server]:
    """A server at the socket ``address`` that keeps its state below ``root``, for the length of the block."""
    _make_room(address)
    store = Store(root)
    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers((_handlers(Snapshots(store)),))
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{address}")
        server.start()
    finally:
        os.umask(before)
    try:
        yield server
    finally:
        server.stop(GRACE_SECONDS).wait()
        store.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)


def _make_room(address: str) -> None:
    """Remove a socket nobody answers on; refuse to take one that is in use, or a file of another kind."""
    try:
        mode = os.lstat(address).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISSOCK(mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(address)
            except OSError:
                os.unlink(address)
                return
    raise ConflictError(f"{address} is in use", code="snapshotter.address", remedy="choose another --address")


def _handlers(service: Snapshots) -> Any:
    table = {}
    for name, function in service.table().items():
        request, _ = METHODS[name]
        table[name] = grpc.unary_unary_rpc_method_handler(
            _guarded(function), request_deserializer=_decoder(request), response_serializer=_encode
        )
    table["List"] = grpc.unary_stream_rpc_method_handler(
        _guarded(lambda request: iter(list(service.pages(request)))),
        request_deserializer=_decoder(METHODS["List"][0]),
        response_serializer=_encode,
    )
    return grpc.method_handlers_generic_handler(SNAPSHOTS, table)


def _decoder(name: str) -> Callable[[bytes], Message]:
    return lambda payload: MESSAGES.decode(name, payload)


def _encode(message: Message) -> bytes:
    return message.encode()


def _guarded(function: Callable[[Message], Any]) -> Callable[[Message, grpc.ServicerContext], Any]:
    """Errors of ours become gRPC's status; containerd reads the number and, for one case, the text."""

    def call(request: Message, context: grpc.ServicerContext) -> Any:
        try:
            return function(request)
        except SealpodError as exc:
            number, _ = to_status(exc)
            context.abort(_CODES[number], exc.message)

    return call

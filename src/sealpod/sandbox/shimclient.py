# SPDX-License-Identifier: Apache-2.0
"""Ask a running pod's shim about itself: service ``sealpod.Sandbox`` on its ttrpc socket, JSON answers."""

from __future__ import annotations

import json
import socket
from typing import Any, Final, Literal

from sealpod.errors import AccessError, DecodeError, UnavailableError
from sealpod.wire.status import from_status
from sealpod.wire.ttrpc import REQUEST, Frame, FrameDecoder, Oversized, Request, Response, encode_frame

SERVICE: Final = "sealpod.Sandbox"
SECONDS: Final = 10.0

Method = Literal["Inspect", "Console", "Metrics"]


def ask(path: str, method: Method, *, seconds: float = SECONDS) -> dict[str, Any]:
    """The answer of the shim listening at ``path``.

    :raise UnavailableError: nobody listens or answers there (``sandbox.dead``).
    :raise AccessError: the socket is not ours to use.
    """
    request = Request(SERVICE, method, b"", int(seconds * 1e9))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(path)
            connection.sendall(encode_frame(Frame(1, REQUEST, request.encode())))
            payload = _answer(connection)
        except PermissionError as error:
            raise AccessError(
                f"no right to talk to the shim at {path}", code="sandbox.access", remedy="run it as root"
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"the sandbox's shim does not answer at {path}",
                code="sandbox.dead",
                remedy="`sealpod sandbox rm ID` removes what it left",
            ) from error
    try:
        found = json.loads(payload)
    except ValueError as error:
        raise DecodeError("the shim's answer is not JSON", code="sandbox.answer") from error
    if not isinstance(found, dict):
        raise DecodeError("the shim's answer is no object", code="sandbox.answer")
    return found


def _answer(connection: socket.socket) -> bytes:
    decoder = FrameDecoder()
    while data := connection.recv(65536):
        for frame in decoder.feed(data):
            if isinstance(frame, Oversized):
                raise DecodeError(f"the shim's answer: {frame.refusal()}", code="sandbox.answer")
            response = Response.decode(frame.payload)
            if response.code:
                raise from_status(response.code, response.message)
            return response.payload
    raise ConnectionResetError("closed without an answer")

# SPDX-License-Identifier: Apache-2.0
"""The unary gRPC client against a scripted HTTP/2 peer and against peers that speak something else."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from sealpod.errors import UnavailableError
from sealpod.kbc import unary
from sealpod.kbc.unary import percent_decode

OK = [(":status", "200"), ("content-type", "application/grpc")]


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A peer on loopback that handles one connection with ``serve``."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            connection, _ = server.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield server.getsockname()
        thread.join(10)


class Grpc:
    """Reads one call and answers with what it is given."""

    def __init__(self, answer: Callable[[H2Connection, int], None]) -> None:
        self._answer = answer
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    def __call__(self, connection: socket.socket) -> None:
        # The client may leave at any time, and what it sends after our goodbye is nobody's.
        with suppress(ConnectionError):
            self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        h2 = H2Connection(H2Configuration(client_side=False))
        h2.initiate_connection()
        connection.sendall(h2.data_to_send())
        while data := connection.recv(65536):
            if h2.state_machine.state is ConnectionState.CLOSED:
                continue
            for event in h2.receive_data(data):
                if isinstance(event, RequestReceived):
                    self.headers = dict(event.headers)
                elif isinstance(event, DataReceived):
                    self.body += event.data
                elif isinstance(event, StreamEnded):
                    self._answer(h2, event.stream_id)
            connection.sendall(h2.data_to_send())


def call(address: tuple[str, int], request: bytes = b"ask", timeout: float = 10) -> unary.Answer:
    return unary.call(address, "/p.S/M", request, timeout=timeout)


def message(payload: bytes) -> bytes:
    return struct.pack(">?I", False, len(payload)) + payload


def answer(payload: bytes, status: str = "0", *extra: tuple[str, str]) -> Callable[[H2Connection, int], None]:
    def run(h2: H2Connection, stream: int) -> None:
        h2.send_headers(stream, OK)
        h2.send_data(stream, payload)
        h2.send_headers(stream, [("grpc-status", status), *extra], end_stream=True)

    return run


def test_a_call_and_its_answer() -> None:
    peer = Grpc(answer(message(b"told")))
    with listening(peer) as address:
        result = call(address)
    assert (result.status.code, result.message) == (0, b"told")
    assert peer.body == message(b"ask")
    assert peer.headers[b":path"] == b"/p.S/M"
    assert peer.headers[b"content-type"] == b"application/grpc"
    assert peer.headers[b"te"] == b"trailers"


def test_a_long_answer_in_many_frames() -> None:
    payload = bytes(200_000)

    def run(h2: H2Connection, stream: int) -> None:
        h2.send_headers(stream, OK)
        data = message(payload)
        # More than the first window: the client must give credit back.
        for start in range(0, 49152, 16384):
            h2.send_data(stream, data[start : start + 16384])
        rest.append((data[49152:], stream))

    rest: list[tuple[bytes, int]] = []

    def serve(connection: socket.socket) -> None:
        h2 = H2Connection(H2Configuration(client_side=False))
        h2.initiate_connection()
        while data := connection.recv(65536):
            for event in h2.receive_data(data):
                if isinstance(event, StreamEnded):
                    run(h2, event.stream_id)
            while rest:
                data, stream = rest.pop()
                size = min(len(data), 16384, h2.local_flow_control_window(stream))
                if size:
                    h2.send_data(stream, data[:size])
                if size < len(data):
                    rest.append((data[size:], stream))
                    if not size:
                        break
                else:
                    h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)
            connection.sendall(h2.data_to_send())

    with listening(serve) as address:
        assert call(address).message == payload


def test_a_failure_in_headers_only() -> None:
    def run(h2: H2Connection, stream: int) -> None:
        headers = [*OK, ("grpc-status", "13"), ("grpc-message", "Policy: caf%C3%A9"), ("sealpod-code", "a.b")]
        h2.send_headers(stream, headers, end_stream=True)

    with listening(Grpc(run)) as address:
        result = call(address)
    assert (result.status.code, result.status.message) == (13, "Policy: café")
    assert result.status.trailers["sealpod-code"] == "a.b"


def test_a_failure_in_trailers() -> None:
    with listening(Grpc(answer(b"", "13", ("grpc-message", "no")))) as address:
        result = call(address)
    assert (result.status.code, result.status.message, result.message) == (13, "no", b"")


@pytest.mark.parametrize(
    "run",
    [
        answer(b""),
        answer(b"\1" + message(b"x")[1:]),
        answer(message(b"x") * 2),
        answer(message(b"x")[:-1]),
        answer(message(b"x"), "zero"),
        lambda h2, stream: h2.send_headers(stream, [(":status", "404")], end_stream=True),
        lambda h2, stream: h2.reset_stream(stream),
        lambda h2, stream: h2.close_connection(),
    ],
)
def test_answers_that_are_none(run: Callable[[H2Connection, int], None]) -> None:
    with listening(Grpc(run)) as address, pytest.raises(UnavailableError) as caught:
        call(address)
    assert caught.value.code == "kbc.unreachable"


def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unary, "MAX_MESSAGE", 1000)
    with listening(Grpc(answer(message(bytes(2000))))) as address, pytest.raises(UnavailableError):
        call(address)


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"\0" * 64, b""])
def test_peers_of_another_protocol(greeting: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(greeting)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with listening(serve) as address, pytest.raises(UnavailableError, match="does not speak gRPC"):
        call(address)


def test_a_silent_peer_is_left_in_time() -> None:
    released = threading.Event()
    with listening(lambda _: released.wait(10) and None) as address:
        with pytest.raises(UnavailableError, match="timed out"):
            call(address, timeout=0.2)
        released.set()


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(unary.time, "sleep", pauses.append)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    with pytest.raises(UnavailableError, match="refused") as caught:
        call(address)
    assert f"127.0.0.1:{address[1]}" in caught.value.message
    assert len(pauses) == unary.CONNECT_ATTEMPTS - 1


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("", ""),
        ("a%20b", "a b"),
        ("100%", "100%"),
        ("%zz%4", "%zz%4"),
        ("%E4%B8%AD", "中"),
        ("%ff", "\ufffd"),
    ],
)
def test_percent_decoding(text: str, plain: str) -> None:
    assert percent_decode(text) == plain

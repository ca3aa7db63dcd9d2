# SPDX-License-Identifier: Apache-2.0
"""The ttrpc server over a socket pair: order, errors, limits, and peers that misbehave."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from client import Client  # type: ignore[import-not-found]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealpod.agent import server as server_module
from sealpod.agent.console import Console
from sealpod.agent.server import Server
from sealpod.errors import DecodeError, RefusedError
from sealpod.wire import ttrpc
from sealpod.wire.pb import health_pb2
from sealpod.wire.ttrpc import Frame, Request, encode_frame

SERVICE = "test.Service"
TIMEOUT = 30


class Peer:
    """A server in a thread and a client of it."""

    def __init__(self, methods: dict[str, Callable[[bytes], bytes]], console: int) -> None:
        ours, self.theirs = socket.socketpair()
        self.client = Client(ours)
        self.followed = threading.Event()
        self.error: BaseException | None = None
        self._server = Server(
            self.theirs.fileno(),
            {(SERVICE, name): method for name, method in methods.items()},
            Console(console),
            after={(SERVICE, "echo"): self.followed.set},
        )
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            self._server.serve()
        except DecodeError as exc:
            self.error = exc

    def end(self) -> None:
        self.client.connection.shutdown(socket.SHUT_WR)
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive()
        self.theirs.close()
        self.client.close()  # once its reader has seen the end


class Methods:
    """Methods whose progress the test decides."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.entered = threading.Semaphore(0)

    def table(self) -> dict[str, Callable[[bytes], bytes]]:
        return {
            "echo": lambda payload: payload,
            "wait": self.wait,
            "refuse": self.refuse,
            "break": self.fail,
            "flood": lambda _: bytes(ttrpc.MAX_PAYLOAD),
        }

    def wait(self, payload: bytes) -> bytes:
        self.entered.release()
        assert self.release.wait(TIMEOUT)
        return payload

    def refuse(self, payload: bytes) -> bytes:
        raise RefusedError("no", code="test.refused", remedy="ask again")

    def fail(self, payload: bytes) -> bytes:
        raise ValueError(f"planted {payload!r}")


@pytest.fixture
def methods() -> Methods:
    return Methods()


@pytest.fixture
def console() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


@pytest.fixture
def peer(methods: Methods, console: tuple[int, int]) -> Iterator[Peer]:
    peer = Peer(methods.table(), console[1])
    yield peer
    methods.release.set()
    peer.end()


def ask(peer: Peer, method: str, payload: bytes = b"") -> ttrpc.Response:
    message = health_pb2.CheckRequest()
    message.MergeFromString(payload)
    response: ttrpc.Response = peer.client.send(method, message, SERVICE).result(TIMEOUT)
    return response


def test_answers(peer: Peer) -> None:
    assert ask(peer, "echo", b"\x0a\x01x").payload == b"\x0a\x01x"
    assert peer.followed.wait(TIMEOUT)


def test_answers_overtake_each_other(peer: Peer, methods: Methods) -> None:
    slow = [peer.client.send("wait", None, SERVICE) for _ in range(4)]
    for _ in slow:
        assert methods.entered.acquire(timeout=TIMEOUT)
    assert ask(peer, "echo").code == 0
    assert not any(future.done() for future in slow)
    methods.release.set()
    assert all(future.result(TIMEOUT).code == 0 for future in slow)


def test_unknown_service_and_method(peer: Peer) -> None:
    assert ask(peer, "nothing") == ttrpc.Response(code=12, message="method nothing")
    response = peer.client.send("echo", None, "other.Service").result(TIMEOUT)
    assert response == ttrpc.Response(code=12, message="service other.Service")


def test_an_answer_too_large_for_a_frame_is_told(peer: Peer) -> None:
    response = ask(peer, "flood")
    assert (response.code, "maximum message size" in response.message) == (ttrpc.RESOURCE_EXHAUSTED, True)


def test_a_guest_without_a_thread_to_spare_goes_on(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's fork bomb takes them all; calls that end it come through when there is one again."""

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        for _ in range(server_module.MAX_CALLS + 1):
            assert ask(peer, "echo").message == "the guest has no thread for this call"
    assert ask(peer, "echo").code == 0


def test_errors_become_statuses(peer: Peer, console: tuple[int, int]) -> None:
    assert ask(peer, "refuse") == ttrpc.Response(code=7, message="no; ask again [test.refused]")
    assert ask(peer, "break", b"\x0a\x01x") == ttrpc.Response(
        code=13, message="unexpected ValueError [internal.error]"
    )
    assert ask(peer, "echo").code == 0  # and it lives
    said = os.read(console[0], 4096)
    assert said.splitlines()[0] == b"sealpod: refuse failed: no; ask again [test.refused]"
    assert b"planted" not in said


@pytest.mark.parametrize(
    "frame",
    [
        Frame(2, ttrpc.REQUEST, b""),
        Frame(1, ttrpc.REQUEST, b"\xff"),
        Frame(1, ttrpc.REQUEST, b"", flags=2),
        Frame(1, ttrpc.RESPONSE, b""),
        Frame(1, ttrpc.DATA, b"", flags=1),
        Frame(1, 77, b""),
    ],
)
def test_frames_that_are_no_call(peer: Peer, frame: Frame) -> None:
    future = peer.client.expect(frame.stream)
    peer.client.connection.sendall(encode_frame(frame))
    assert future.result(TIMEOUT).code == ttrpc.INVALID_ARGUMENT


def test_stream_ids_must_rise(peer: Peer) -> None:
    request = Request(SERVICE, "echo").encode()
    for stream, code in ((5, 0), (5, 3), (3, 3), (7, 0)):
        future = peer.client.expect(stream)
        peer.client.connection.sendall(encode_frame(Frame(stream, ttrpc.REQUEST, request)))
        assert future.result(TIMEOUT).code == code


def test_an_oversized_call_is_refused_and_the_next_is_served(peer: Peer) -> None:
    future = peer.client.expect(1)
    length = ttrpc.MAX_PAYLOAD + 1
    peer.client.connection.sendall(length.to_bytes(4, "big") + bytes.fromhex("000000010100"))
    assert future.result(TIMEOUT).code == ttrpc.RESOURCE_EXHAUSTED
    peer.client.connection.sendall(bytes(length))
    peer.client._streams.take()
    assert ask(peer, "echo").code == 0


def test_calls_in_flight_are_limited(methods: Methods, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CALLS", 2)
    peer = Peer(methods.table(), 2)
    slow = [peer.client.send("wait", None, SERVICE) for _ in range(2)]
    for _ in slow:
        assert methods.entered.acquire(timeout=TIMEOUT)
    assert ask(peer, "echo").code == ttrpc.RESOURCE_EXHAUSTED
    methods.release.set()
    assert all(future.result(TIMEOUT).code == 0 for future in slow)
    peer.end()


def test_the_end_inside_a_frame_is_told(methods: Methods) -> None:
    peer = Peer(methods.table(), 2)
    peer.client.connection.sendall(encode_frame(Frame(1, ttrpc.REQUEST, b"x" * 20))[:15])
    peer.end()
    assert isinstance(peer.error, DecodeError)


def test_a_peer_that_leaves_during_a_call(methods: Methods) -> None:
    peer = Peer(methods.table(), 2)
    peer.client.send("wait", None, SERVICE)
    assert methods.entered.acquire(timeout=TIMEOUT)
    peer.end()
    methods.release.set()
    assert peer.error is None


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_noise_ends_with_the_stream(noise: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(noise)
        ours.shutdown(socket.SHUT_WR)
        try:
            Server(theirs.fileno(), {}, Console(2)).serve()
        except DecodeError as exc:
            assert exc.code == "ttrpc.truncated"  # noqa: PT017 (any other would be a bug)

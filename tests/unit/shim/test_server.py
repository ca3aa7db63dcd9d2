# SPDX-License-Identifier: Apache-2.0
"""The ttrpc server on a unix socket: real clients, and bytes no client would send."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealpod import errors
from sealpod.sandbox.channel import Channel
from sealpod.shim.server import MAX_CALLS, Handler, TtrpcServer
from sealpod.wire import ttrpc
from sealpod.wire.ttrpc import REQUEST, Frame, FrameDecoder, Request, Response, encode_frame

SERVICE = "test.Service"
SECONDS = 20.0  # for a whole scenario; reached only when something hangs


class Bench:
    """A server with a few methods and the ways to reach it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.dropped = asyncio.Event()
        self.finished: list[str] = []
        self.cancelled: list[str] = []
        self.reports: list[str] = []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        methods: dict[tuple[str, str], Handler] = {
            (SERVICE, "Echo"): self._echo,
            (SERVICE, "Work"): self._work,
            (SERVICE, "Wait"): self._wait,
            (SERVICE, "Huge"): self._huge,
            (SERVICE, "Fail"): self._fail,
            (SERVICE, "Broken"): self._broken,
            (SERVICE, "Lost"): self._lost,
        }
        self.server = TtrpcServer(listener, methods, waiting=frozenset(("Wait",)), report=self.reports.append)
        self._accepting = asyncio.create_task(self.server.serve())
        self._channels: list[tuple[Channel, socket.socket]] = []

    async def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, self.path)
        return connection

    async def channel(self) -> Channel:
        connection = await self.connect()
        self._channels.append((Channel(connection, "the server"), connection))
        return self._channels[-1][0]

    async def hang_up(self) -> None:
        channel, connection = self._channels.pop()
        await channel.close()
        connection.close()

    async def close(self) -> None:
        while self._channels:
            await self.hang_up()
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        await self.server.close()

    async def _echo(self, payload: bytes) -> bytes:
        return payload

    async def _work(self, payload: bytes) -> bytes:
        return await self._until_gate("work", payload)

    async def _wait(self, payload: bytes) -> bytes:
        return await self._until_gate("wait", payload)

    async def _until_gate(self, name: str, payload: bytes) -> bytes:
        self.entered.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            self.dropped.set()
            raise
        self.finished.append(name)
        return payload

    async def _huge(self, payload: bytes) -> bytes:
        return bytes(ttrpc.MAX_PAYLOAD + 1)

    async def _fail(self, payload: bytes) -> bytes:
        raise FAILURES[payload.decode()]

    async def _broken(self, payload: bytes) -> bytes:
        raise ValueError("s3cret")

    async def _lost(self, payload: bytes) -> bytes:
        raise asyncio.CancelledError


FAILURES: dict[str, errors.SealpodError] = {
    "5": errors.NotFoundError("no container x", code="shim.unknown", remedy="look"),
    "6": errors.ConflictError("it exists", code="shim.exists"),
    "9": errors.VerificationError("not in this state", code="shim.state"),
    "14": errors.UnavailableError("no guest", code="shim.no-guest"),
    "4": errors.DeadlineError("late", code="agent.deadline"),
}


def play(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="sh") as directory:
            bench = Bench(str(Path(directory) / "s"))
            try:
                async with asyncio.timeout(SECONDS):
                    await scenario(bench)
            finally:
                await bench.close()

    asyncio.run(run())


async def responses(connection: socket.socket, count: int) -> list[tuple[int, Response]]:
    decoder, found = FrameDecoder(), []
    while len(found) < count:
        data = await asyncio.get_running_loop().sock_recv(connection, 65536)
        assert data, "the server hung up"
        for frame in decoder.feed(data):
            assert isinstance(frame, Frame)
            found.append((frame.stream, Response.decode(frame.payload)))
    return found


def call(stream: int, method: str, payload: bytes = b"", *, service: str = SERVICE, flags: int = 0) -> bytes:
    return encode_frame(Frame(stream, REQUEST, Request(service, method, payload).encode(), flags))


async def send(connection: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, data)


def test_many_calls_on_many_connections_end_in_any_order() -> None:
    async def scenario(bench: Bench) -> None:
        first, second = await bench.channel(), await bench.channel()
        late = asyncio.create_task(first.call(SERVICE, "Work", b"late"))
        await bench.entered.wait()
        payloads = [bytes([number]) * 1000 for number in range(32)]
        answers = await asyncio.gather(
            *(channel.call(SERVICE, "Echo", one) for one in payloads for channel in (first, second))
        )
        assert answers == [one for one in payloads for _ in range(2)]
        assert not late.done()
        bench.gate.set()
        assert await late == b"late"

    play(scenario)


def test_an_empty_answer_is_an_empty_frame() -> None:
    async def scenario(bench: Bench) -> None:
        connection = await bench.connect()
        with connection:
            await send(connection, call(1, "Echo"))
            data = await asyncio.get_running_loop().sock_recv(connection, 100)
            assert data.hex() == "00000000" + "00000001" + "0200"

    play(scenario)


@pytest.mark.parametrize("number", FAILURES)
def test_an_error_becomes_its_status_with_code_and_remedy(number: str) -> None:
    async def scenario(bench: Bench) -> None:
        connection = await bench.connect()
        with connection:
            await send(connection, call(1, "Fail", number.encode()))
            assert await responses(connection, 1) == [
                (1, Response(code=int(number), message=FAILURES[number].one_line()))
            ]
        assert bench.reports == [f"Fail: {FAILURES[number].one_line()}"]

    play(scenario)


def test_a_foreign_error_tells_its_kind_only_and_the_server_lives() -> None:
    async def scenario(bench: Bench) -> None:
        channel = await bench.channel()
        with pytest.raises(errors.OperationError, match="ValueError") as caught:
            await channel.call(SERVICE, "Broken", b"")
        assert "s3cret" not in str(caught.value) + "".join(bench.reports)
        assert await channel.call(SERVICE, "Echo", b"x") == b"x"

    play(scenario)


def test_a_handler_that_was_cancelled_is_answered() -> None:
    async def scenario(bench: Bench) -> None:
        channel = await bench.channel()
        with pytest.raises(errors.InterruptError):
            await channel.call(SERVICE, "Lost", b"")

    play(scenario)


def test_an_answer_over_the_limit_is_refused_instead_of_kept() -> None:
    async def scenario(bench: Bench) -> None:
        connection = await bench.connect()
        with connection:
            await send(connection, call(1, "Huge") + call(3, "Echo", b"x"))
            answers = dict(await responses(connection, 2))
        assert answers[1].code == ttrpc.RESOURCE_EXHAUSTED
        assert answers[3] == Response(b"x")

    play(scenario)


def test_unknown_services_and_methods_are_unimplemented() -> None:
    async def scenario(bench: Bench) -> None:
        connection = await bench.connect()
        with connection:
            await send(connection, call(1, "Nothing") + call(3, "Echo", service="other.Service"))
            answers = dict(await responses(connection, 2))
        assert answers[1] == Response(code=12, message="method Nothing")
        assert answers[3] == Response(code=12, message="service other.Service")

    play(scenario)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (call(2, "Echo"), ttrpc.INVALID_ARGUMENT),
        (call(1, "Echo", flags=2), ttrpc.INVALID_ARGUMENT),
        (encode_frame(Frame(1, ttrpc.DATA, b"")), ttrpc.INVALID_ARGUMENT),
        (encode_frame(Frame(1, REQUEST, b"\xff")), ttrpc.INVALID_ARGUMENT),
        (
            (ttrpc.MAX_PAYLOAD + 1).to_bytes(4, "big") + bytes.fromhex("000000010100")
            + bytes(ttrpc.MAX_PAYLOAD + 1),
            ttrpc.RESOURCE_EXHAUSTED,
        ),
    ],
    ids=["even", "stream", "data", "garbage", "large"],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_and_the_next_call_is_served(data: bytes, code: int) -> None:
    async def scenario(bench: Bench) -> None:
        connection = await bench.connect()
        with connection:
            await send(connection, data)
            [(_, refusal)] = await responses(connection, 1)
            assert refusal.code == code
            await send(connection, call(5, "Echo", b"x"))
            assert await responses(connection, 1) == [(5, Response(b"x"))]

    play(scenario)


def test_a_call_that_does_something_outlives_its_connection_and_one_that_waits_does_not() -> None:
    async def scenario(bench: Bench) -> None:
        channel = await bench.channel()
        calls = [asyncio.create_task(channel.call(SERVICE, name, b"")) for name in ("Work", "Wait")]
        await asyncio.sleep(0)
        await channel.call(SERVICE, "Echo", b"")  # both have begun when this is answered
        await bench.hang_up()
        await asyncio.gather(*calls, return_exceptions=True)
        await bench.dropped.wait()
        bench.gate.set()
        await bench.server.drain(SECONDS)
        assert bench.cancelled == ["wait"]
        assert bench.finished == ["work"]

    play(scenario)


def test_calls_in_flight_are_bounded() -> None:
    async def scenario(bench: Bench) -> None:
        connection = await bench.connect()
        with connection:
            flood = b"".join(call(2 * number + 1, "Work") for number in range(MAX_CALLS + 1))
            await send(connection, flood)
            [(stream, refusal)] = await responses(connection, 1)
            assert (stream, refusal.code) == (2 * MAX_CALLS + 1, ttrpc.RESOURCE_EXHAUSTED)
            bench.gate.set()
            assert len(await responses(connection, MAX_CALLS)) == MAX_CALLS
            await send(connection, call(2 * MAX_CALLS + 3, "Echo"))
            assert await responses(connection, 1) == [(2 * MAX_CALLS + 3, Response())]

    play(scenario)


def test_a_client_that_reads_nothing_and_leaves_harms_no_other() -> None:
    async def scenario(bench: Bench) -> None:
        deaf = await bench.connect()
        large = bytes(1 << 20)
        await send(deaf, b"".join(call(2 * number + 1, "Echo", large) for number in range(4)))
        other = await bench.channel()
        assert await other.call(SERVICE, "Echo", b"x") == b"x"
        deaf.close()
        for _ in range(5):
            # The number of the deaf client's descriptor is soon another connection's.
            fresh = await bench.channel()
            assert await fresh.call(SERVICE, "Echo", large) == large
            await bench.hang_up()
        assert await other.call(SERVICE, "Echo", b"y") == b"y"

    play(scenario)


def test_the_server_ends_with_calls_in_flight() -> None:
    async def scenario(bench: Bench) -> None:
        channel = await bench.channel()
        pending = asyncio.create_task(channel.call(SERVICE, "Work", b""))
        await bench.entered.wait()
        await bench.server.close()
        with pytest.raises(errors.UnavailableError):
            await pending
        assert bench.cancelled == ["work"]

    play(scenario)


def test_an_idle_server_does_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        channel = await bench.channel()
        await channel.call(SERVICE, "Echo", b"")
        loop = asyncio.get_running_loop()
        turns = 0
        original = loop._run_once  # type: ignore[attr-defined]

        def counted() -> None:
            nonlocal turns
            turns += 1
            original()

        loop._run_once = counted  # type: ignore[attr-defined]
        await asyncio.sleep(0.2)
        assert turns <= 3

    play(scenario)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([call(1, "Echo"), call(3, "Nothing")]), max_size=6))
def test_no_bytes_end_the_server(pieces: list[bytes]) -> None:
    async def scenario(bench: Bench) -> None:
        connection = await bench.connect()
        with connection:
            for piece in pieces:
                await send(connection, piece)
        channel = await bench.channel()
        assert await channel.call(SERVICE, "Echo", b"alive") == b"alive"

    play(scenario)

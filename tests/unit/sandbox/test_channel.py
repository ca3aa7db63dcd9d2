# SPDX-License-Identifier: Apache-2.0
"""The ttrpc client over a socket pair, against a scripted peer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from sealpod.errors import DeadlineError, DecodeError, NotFoundError, UnavailableError
from sealpod.sandbox.channel import Channel
from sealpod.wire.ttrpc import RESPONSE, Frame, FrameDecoder, Request, Response, encode_frame

Scenario = Callable[[Channel, "Peer"], Awaitable[None]]


class Peer:
    """The other end: takes requests, answers as told."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._decoder = FrameDecoder()
        self._waiting: list[Frame] = []

    async def take(self) -> tuple[int, Request]:
        while not self._waiting:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
            assert data
            self._waiting += [frame for frame in self._decoder.feed(data) if isinstance(frame, Frame)]
        frame = self._waiting.pop(0)
        return frame.stream, Request.decode(frame.payload)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def answer(self, stream: int, response: Response) -> None:
        await self.send(encode_frame(Frame(stream, RESPONSE, response.encode())))

    def close(self) -> None:
        self._socket.close()


def play(scenario: Scenario) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        with ours, theirs:
            channel = Channel(ours, "the peer")
            try:
                async with asyncio.timeout(20):
                    await scenario(channel, Peer(theirs))
            finally:
                await channel.close()

    asyncio.run(run())


def test_answers_may_come_in_any_order() -> None:
    async def scenario(channel: Channel, peer: Peer) -> None:
        calls = [asyncio.create_task(channel.call("s", f"m{number}", b"%d" % number)) for number in range(5)]
        taken = [await peer.take() for _ in range(5)]
        assert [stream for stream, _ in taken] == [1, 3, 5, 7, 9]
        for stream, request in reversed(taken):
            await peer.answer(stream, Response(payload=b"re " + request.payload))
        assert [await call for call in calls] == [b"re 0", b"re 1", b"re 2", b"re 3", b"re 4"]

    play(scenario)


def test_a_status_becomes_the_error_it_stands_for() -> None:
    async def scenario(channel: Channel, peer: Peer) -> None:
        call = asyncio.create_task(channel.call("s", "m", b""))
        stream, _ = await peer.take()
        await peer.answer(stream, Response(code=5, message="no such image; check the name [image.not-found]"))
        with pytest.raises(NotFoundError, match="no such image") as caught:
            await call
        assert (caught.value.code, caught.value.remedy) == ("image.not-found", "check the name")

    play(scenario)


def test_a_closed_channel_fails_calls_in_flight_and_later_ones() -> None:
    async def scenario(channel: Channel, peer: Peer) -> None:
        call = asyncio.create_task(channel.call("s", "m", b""))
        await peer.take()
        peer.close()
        with pytest.raises(UnavailableError, match="the peer closed its channel"):
            await call
        with pytest.raises(UnavailableError):
            await channel.call("s", "m", b"")

    play(scenario)


def test_garbage_for_an_answer_fails_that_call_only() -> None:
    async def scenario(channel: Channel, peer: Peer) -> None:
        first = asyncio.create_task(channel.call("s", "m", b""))
        stream, _ = await peer.take()
        await peer.send(encode_frame(Frame(stream, RESPONSE, b"\xff\xff\xff")))
        with pytest.raises(DecodeError):
            await first
        second = asyncio.create_task(channel.call("s", "m", b""))
        stream, _ = await peer.take()
        await peer.answer(stream, Response(payload=b"fine"))
        assert await second == b"fine"

    play(scenario)


def test_a_deadline_is_told_to_the_peer_and_kept() -> None:
    async def scenario(channel: Channel, peer: Peer) -> None:
        call = asyncio.create_task(channel.call("s", "Slow", b"", seconds=0.05))
        _, request = await peer.take()
        assert request.timeout_nano == 50_000_000
        with pytest.raises(DeadlineError, match="Slow"):
            await call

    play(scenario)

# SPDX-License-Identifier: Apache-2.0
"""ttrpc framing: known frames, any chunking, limits, stream ids. Vectors: see the ledger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.wire import ttrpc
from sealpod.wire.pb import ttrpc_pb2
from sealpod.wire.ttrpc import Frame, FrameDecoder, Oversized, Request, Response, encode_frame

CONNECT = Request(
    "containerd.task.v2.Task",
    "Connect",
    bytes.fromhex("0a03616263"),
    5_000_000_000,
    (("containerd-namespace-ttrpc", "k8s.io"),),
)
CONNECT_FRAME = bytes.fromhex(
    "00000055000000010100"
    "0a17636f6e7461696e6572642e7461736b2e76322e5461736b"
    "1207436f6e6e656374"
    "1a050a03616263"
    "2080e497d012"
    "2a240a1a636f6e7461696e6572642d6e616d6573706163652d747472706312066b38732e696f"
)
ANSWER_FRAME = bytes.fromhex("0000000700000001020012050864" + "10c801")
ERROR_FRAME = bytes.fromhex("0000000f0000000102000a0d080512096e6f7420666f756e64")

frames = st.lists(
    st.builds(
        Frame,
        stream=st.integers(0, ttrpc.MAX_STREAM),
        type=st.integers(0, 255),
        payload=st.binary(max_size=200),
        flags=st.integers(0, 255),
    ),
    max_size=5,
)


def test_request_vector() -> None:
    assert encode_frame(Frame(1, ttrpc.REQUEST, CONNECT.encode())) == CONNECT_FRAME
    [frame] = FrameDecoder().feed(CONNECT_FRAME)
    assert isinstance(frame, Frame)
    assert (frame.stream, frame.type, frame.flags) == (1, ttrpc.REQUEST, 0)
    assert Request.decode(frame.payload) == CONNECT


def test_response_vectors() -> None:
    answer = Response(bytes.fromhex("086410c801"))
    refused = Response(code=5, message="not found")
    for response, data in ((answer, ANSWER_FRAME), (refused, ERROR_FRAME)):
        assert encode_frame(Frame(1, ttrpc.RESPONSE, response.encode())) == data
        [frame] = FrameDecoder().feed(data)
        assert isinstance(frame, Frame)
        assert Response.decode(frame.payload) == response


def test_a_status_of_code_zero_is_success() -> None:
    message = ttrpc_pb2.Response(status=ttrpc_pb2.Status(code=0, message="ok"), payload=b"x")
    assert Response.decode(message.SerializeToString()) == Response(b"x", 0, "ok")


def test_metadata_with_details_is_understood() -> None:
    message = ttrpc_pb2.Response(status=ttrpc_pb2.Status(code=7, message="no", details=[b"any"]))
    assert Response.decode(message.SerializeToString()) == Response(b"", 7, "no")


def test_bytes_one_by_one() -> None:
    decoder = FrameDecoder()
    seen = []
    for byte in CONNECT_FRAME + ANSWER_FRAME + ERROR_FRAME:
        seen += decoder.feed(bytes([byte]))
    assert seen == FrameDecoder().feed(CONNECT_FRAME + ANSWER_FRAME + ERROR_FRAME)
    assert len(seen) == 3
    decoder.end()


@given(frames, st.data())
def test_any_chunking_gives_the_same_frames(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(encode_frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    decoder = FrameDecoder()
    got: list[Frame | Oversized] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += decoder.feed(stream[begin:end])
    assert got == sent
    decoder.end()


@given(st.binary(max_size=300))
def test_noise_is_frames_or_a_wait_and_nothing_else(data: bytes) -> None:
    decoder = FrameDecoder()
    for frame in decoder.feed(data):
        try:
            Request.decode(frame.payload if isinstance(frame, Frame) else b"")
        except DecodeError:
            continue


@pytest.mark.parametrize("cut", range(1, len(ANSWER_FRAME)))
def test_every_truncation_is_noticed(cut: int) -> None:
    decoder = FrameDecoder()
    assert decoder.feed(ANSWER_FRAME[:cut]) == []
    with pytest.raises(DecodeError) as caught:
        decoder.end()
    assert caught.value.code == "ttrpc.truncated"


def test_a_frame_over_the_limit_is_skipped_and_the_next_is_read() -> None:
    length = ttrpc.MAX_PAYLOAD + 1
    decoder = FrameDecoder()
    [event] = decoder.feed(length.to_bytes(4, "big") + bytes.fromhex("000000030100"))
    assert event == Oversized(3, ttrpc.REQUEST, length)
    assert event.refusal() == f"message length {length} exceed maximum message size of 4194304"
    piece = bytes(65536)
    for _ in range(length // len(piece)):
        assert decoder.feed(piece) == []
    with pytest.raises(DecodeError):
        decoder.end()
    assert decoder.feed(bytes(length % len(piece)) + ANSWER_FRAME) == FrameDecoder().feed(ANSWER_FRAME)
    decoder.end()


def test_a_frame_of_the_limit_passes() -> None:
    frame = Frame(1, ttrpc.RESPONSE, bytes(ttrpc.MAX_PAYLOAD))
    assert FrameDecoder().feed(encode_frame(frame)) == [frame]


def test_encoding_over_the_limit_is_refused() -> None:
    with pytest.raises(DecodeError) as caught:
        encode_frame(Frame(1, ttrpc.RESPONSE, bytes(ttrpc.MAX_PAYLOAD + 1)))
    assert caught.value.code == "ttrpc.size"


def test_client_streams_are_odd_and_end() -> None:
    streams = ttrpc.ClientStreams()
    assert [streams.take() for _ in range(3)] == [1, 3, 5]
    streams._next = ttrpc.MAX_STREAM
    assert streams.take() == ttrpc.MAX_STREAM
    with pytest.raises(DecodeError):
        streams.take()


def test_server_streams_rise_by_any_amount() -> None:
    streams = ttrpc.ServerStreams()
    for stream in (1, 3, 9, 11):
        streams.open(stream)
    for stream in (12, 0, 9, 11):
        with pytest.raises(DecodeError):
            streams.open(stream)


@given(
    st.builds(
        Request,
        service=st.text(max_size=20),
        method=st.text(max_size=20),
        payload=st.binary(max_size=50),
        timeout_nano=st.integers(-(1 << 63), (1 << 63) - 1),
        metadata=st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=3).map(tuple),
    )
)
def test_requests_are_those_of_the_proto(request: Request) -> None:
    message = ttrpc_pb2.Request(
        service=request.service,
        method=request.method,
        payload=request.payload,
        timeout_nano=request.timeout_nano,
        metadata=[ttrpc_pb2.KeyValue(key=key, value=value) for key, value in request.metadata],
    )
    assert request.encode() == message.SerializeToString()
    assert Request.decode(message.SerializeToString()) == request

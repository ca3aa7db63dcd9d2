# SPDX-License-Identifier: Apache-2.0
"""The shim's messages: the vectors recorded from containerd, and the tables' own consistency."""

from __future__ import annotations

from sealpod.wire import taskapi
from sealpod.wire.taskapi import MESSAGES
from sealpod.wire.ttrpc import FrameDecoder, Request, Response

CONNECT = bytes.fromhex(
    "0000005500000001010"
    "00a17636f6e7461696e6572642e7461736b2e76322e5461736b"
    "1207436f6e6e6563741a050a036162632080e497d012"
    "2a240a1a636f6e7461696e6572642d6e616d6573706163652d747472706312066b38732e696f"
)
EXIT_EVENT = bytes.fromhex(
    "0a580a080880e2cfaa06100112066b38732e696f1a0b2f7461736b732f6578697422370a1a636f6e7461696e6572642e6576"
    "656e74732e5461736b4578697412190a03616263120361626318642089012a080880e2cfaa061001"
)


def test_a_recorded_connect_request_is_read() -> None:
    (frame,) = FrameDecoder().feed(CONNECT)
    request = Request.decode(frame.payload)  # type: ignore[union-attr]
    assert (request.service, request.method) == (taskapi.TASK, "Connect")
    assert MESSAGES.decode("ConnectRequest", request.payload).id == "abc"


def test_a_connect_response_is_written_as_recorded() -> None:
    payload = MESSAGES.new("ConnectResponse", shim_pid=100, task_pid=200).encode()
    assert Response(payload=payload).encode().hex() == "1205" + "0864" + "10c801"


def test_an_exit_event_is_written_as_recorded() -> None:
    at = 1_700_000_000_000_000_001
    event = MESSAGES.new(
        "TaskExit", container_id="abc", id="abc", pid=100, exit_status=137, exited_at=taskapi.timestamp(at)
    )
    assert taskapi.envelope("k8s.io", "TaskExit", event, at).encode() == EXIT_EVENT


def test_the_options_containerd_sends_are_read() -> None:
    path = "/etc/kata/x.toml"
    packed = bytes.fromhex("0a1972756e74696d656f7074696f6e732e76312e4f7074696f6e731212") + b"\x12\x10"
    value = MESSAGES.decode("Any", packed + path.encode())
    assert value.type_url in taskapi.OPTIONS_URLS
    assert MESSAGES.decode("Options", value.value).config_path == path


def test_every_method_and_event_has_its_messages() -> None:
    for request, response in taskapi.METHODS.values():
        MESSAGES.new(request)
        MESSAGES.new(response)
    for name in taskapi.TOPICS:
        assert MESSAGES.new(name, container_id="x").container_id == "x"

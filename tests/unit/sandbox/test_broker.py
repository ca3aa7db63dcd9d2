# SPDX-License-Identifier: Apache-2.0
"""The launcher's key broker client against peers that are none. Real brokers: tests/e2e."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from sealpod.errors import UnavailableError, UsageError
from sealpod.sandbox.broker import Broker
from sealpod.sev.policy import Policy


def refused(address: str) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        asyncio.run(Broker(address).get_bundle(bytes(11536), Policy(3)))
    assert address in caught.value.message
    return caught.value


@pytest.fixture
def web() -> Iterator[str]:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def test_an_http_server_is_no_key_broker(web: str) -> None:
    assert refused(web).code == "kbs.not-a-broker"


def test_nobody_there_is_told_with_the_reason() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = refused(f"127.0.0.1:{taken.getsockname()[1]}")
    assert error.code == "kbs.unreachable"
    assert "refused" in error.message


def test_a_silent_peer_does_not_hold_up_a_cancelled_launch() -> None:
    async def scenario(address: str, asked: threading.Event) -> None:
        task = asyncio.create_task(Broker(address).get_bundle(bytes(11536), Policy(3)))
        await asyncio.to_thread(asked.wait, 10)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asked = threading.Event()
    connections: list[socket.socket] = []

    def accept() -> None:
        connections.append(listener.accept()[0])
        asked.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        # Ends at once, though the call has ten seconds.
        asyncio.run(asyncio.wait_for(scenario(f"127.0.0.1:{listener.getsockname()[1]}", asked), 8))
    for connection in connections:
        connection.close()


def test_an_address_that_is_none() -> None:
    with pytest.raises(UsageError):
        Broker("nowhere")

# SPDX-License-Identifier: Apache-2.0
"""Callers that take more than their share: too often, too much, too slowly, or never to the end."""

from __future__ import annotations

import asyncio
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from brokerkit import SERVICE, bundle, channel, request

from sealpod.kbs.core.audit import Decision, Entry
from sealpod.kbs.core.messages import OnlineReply
from sealpod.kbs.server import RunningBroker, ServerConfig, serve
from sealpod.kbs.server.admission import Admission
from sealpod.kbs.server.calls import CALLS
from sealpod.kbs.server.config import ConnectionLimits, RateLimit
from sealpod.kbs.server.metrics import Metrics
from sealpod.kbs.server.service import Service

Start = Callable[..., RunningBroker]
Slow = Callable[[str], "SlowClient"]


@pytest.fixture
def start(platform: Any, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(auditor: Any = None, **options: Any) -> RunningBroker:
            config = ServerConfig(
                "127.0.0.1:0", f"sqlite:///{tmp_path / 'kbs.db'}", (platform.fingerprint,), **options
            )
            return stack.enter_context(serve(config, auditor=auditor))

        yield started


class SlowClient:
    """An HTTP/2 client of one connection that begins calls and does not end them."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._http.initiate_connection()
        self.flush()

    def begin(self, method: str = "GetBundle", data: bytes = b"") -> int:
        """Headers of a call, and perhaps the beginning of its message; gives the stream."""
        stream = self._http.get_next_available_stream_id()
        path = SERVICE + method
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        headers += [("content-type", "application/grpc"), ("te", "trailers")]
        self._http.send_headers(stream, headers)
        if data:
            self._http.send_data(stream, data)
        self.flush()
        return int(stream)

    def flush(self) -> None:
        self.socket.sendall(self._http.data_to_send())

    def status(self, stream: int) -> str | None:
        """The gRPC status of a call, when it has one; None when the connection ended before."""
        while data := self.socket.recv(65536):
            for event in self._http.receive_data(data):
                if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                    found = dict(event.headers).get("grpc-status")
                    if event.stream_id == stream and found is not None:
                        return str(found)
            self.flush()
        return None

    def ended(self) -> bool:
        """Whether the server ends the connection; waits for it."""
        return hung_up(self.socket)


@pytest.fixture
def slow() -> Iterator[Slow]:
    with ExitStack() as stack:

        def made(address: str) -> SlowClient:
            client = SlowClient(address)
            stack.callback(client.socket.close)
            return client

        yield made


def status_of(caught: Any) -> tuple[grpc.StatusCode, str]:
    extra = dict(caught.value.trailing_metadata() or ())
    return caught.value.code(), extra.get("sealpod-code", "")


def test_a_request_that_never_comes_ends_and_holds_no_thread(start: Start, platform: Any, slow: Slow) -> None:
    broker = start(connections=ConnectionLimits(request=0.5))
    client = slow(broker.address)
    # More than there are threads; some with the beginning of a message of 1000 bytes.
    streams = [client.begin(data=b"\0\0\0\3\xe8half" if at % 2 else b"") for at in range(24)]
    with channel(broker.address) as link:
        assert bundle(link, platform).LaunchId
    assert client.status(streams[-1]) == "4"  # DEADLINE_EXCEEDED


def test_two_hundred_slow_and_half_open_clients(platform: Any, tmp_path: Path, slow: Slow) -> None:
    with process(tmp_path, platform, "--grace", "1") as (running, address), ExitStack() as stack:
        with channel(address) as link:
            assert bundle(link, platform).LaunchId
        before = resident(running.pid)
        for _ in range(100):
            stack.enter_context(connected(address))
        for at in range(100):
            client = slow(address)
            for _ in range(5):
                client.begin(
                    ("GetBundle", "GetSecret")[at % 2], b"\0\0\4\0\0" + bytes(10_000) if at % 3 else b""
                )
        with channel(address) as link:
            for _ in range(10):
                assert bundle(link, platform, timeout=10).LaunchId
        # What was sent is 4 MiB; a connection and a call cost some ten KiB each.
        assert resident(running.pid) - before < 64 << 20


def resident(pid: int) -> int:
    """Bytes of memory a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def process(tmp_path: Path, platform: Any, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address it prints."""
    command = [sys.executable, "-m", "sealpod.cli.main", "kbs", "serve", "--listen", "127.0.0.1:0"]
    command += [
        "--database",
        f"sqlite:///{tmp_path / 'own.db'}",
        "--trust-ark",
        platform.fingerprint,
        *options,
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        try:
            for line in running.stderr:
                if line.startswith("listening on "):
                    break
            yield running, line.split()[-1]
        finally:
            running.terminate()
            running.communicate(timeout=30)


def test_a_half_open_connection_is_closed(start: Start) -> None:
    broker = start(connections=ConnectionLimits(handshake=0.3))
    with connected(broker.address) as silent:
        silent.sendall(b"PRI * HTTP/2.0\r\n")  # a third of the preface
        while silent.recv(4096):
            pass  # The server greets, and hangs up when nothing follows.


def test_an_idle_connection_is_closed(start: Start, slow: Slow) -> None:
    broker = start(connections=ConnectionLimits(idle=0.3))
    client = slow(broker.address)
    assert client.ended()


def test_an_old_connection_is_closed_with_its_calls(start: Start, slow: Slow) -> None:
    broker = start(connections=ConnectionLimits(age=0.3, age_grace=0.3, request=60.0))
    client = slow(broker.address)
    client.begin()
    assert client.ended()


def test_connections_are_capped(start: Start, platform: Any, slow: Slow) -> None:
    broker = start(connections=ConnectionLimits(connections=3, idle=60.0))
    held = [slow(broker.address) for _ in range(3)]
    for client in held:
        assert client.socket.recv(1)  # the server's settings: it is counted
    with connected(broker.address) as further:
        assert further.recv(1) == b""
    held[0].socket.close()
    with channel(broker.address) as link:
        assert bundle(link, platform, wait_for_ready=True).LaunchId


def test_calls_are_capped(start: Start, platform: Any, slow: Slow) -> None:
    broker = start(connections=ConnectionLimits(calls=2, request=1.0))
    client = slow(broker.address)
    streams = [client.begin(), client.begin()]
    third = client.begin()
    assert client.status(third) == "8"  # RESOURCE_EXHAUSTED: the others were let in
    with channel(broker.address) as link, pytest.raises(grpc.RpcError) as caught:
        bundle(link, platform)
    assert status_of(caught) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "kbs.busy")
    assert client.status(streams[-1]) == "4"
    with channel(broker.address) as link:
        assert bundle(link, platform).LaunchId


class OpenCall:
    """A call as gRPC shows it to its handler; it is over when the caller has taken the answer, or is gone."""

    def __init__(self) -> None:
        self.over: list[Callable[[object], None]] = []

    def peer(self) -> str:
        return "ipv4:192.0.2.1:4000"

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def set_trailing_metadata(self, _metadata: object) -> None:
        pass

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        self.over.append(callback)

    async def read(self) -> bytes:
        return b""


def test_an_answer_nobody_takes_holds_its_place() -> None:
    class Broker:
        def get_online_secret(self, *_arguments: object, **_options: object) -> OnlineReply:
            return OnlineReply("payload", "iv")

    async def scenario() -> None:
        admission = Admission(RateLimit(), ConnectionLimits(), lambda: 0.0)
        with ThreadPoolExecutor(1) as workers:
            broker: Any = Broker()
            service = Service(
                lambda: broker, admission=admission, metrics=Metrics(), workers=workers, request_seconds=5.0
            )
            (method,) = [one for one in CALLS if one[0] == "GetOnlineSecret"]
            context = OpenCall()
            assert await service._handler(*method)(None, context)
            assert admission.calls == 1  # answered, and not taken yet
            assert not service._idle.is_set()
            for callback in context.over:
                callback(context)
            assert admission.calls == 0
            await service.until_idle()

    asyncio.run(scenario())


def test_a_peer_has_its_rate(start: Start, platform: Any) -> None:
    broker = start(rate=RateLimit(rate=0.001, burst=3, loopback=True), ops_listen="127.0.0.1:0")
    with channel(broker.address) as link:
        for _ in range(3):
            assert bundle(link, platform).LaunchId
        with pytest.raises(grpc.RpcError) as caught:
            bundle(link, platform)
    assert status_of(caught) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "kbs.rate-limit")
    assert broker.ops_address is not None
    numbers = request(broker.ops_address, "GET", "/metrics").body.decode()
    assert 'sealpod_kbs_turned_away_total{reason="rate-limit"} 1.0' in numbers


def test_loopback_has_no_rate_unless_asked_for(start: Start, platform: Any) -> None:
    broker = start(rate=RateLimit(rate=0.001, burst=1))
    with channel(broker.address) as link:
        for _ in range(3):
            assert bundle(link, platform).LaunchId


def test_a_message_that_is_too_large(start: Start, platform: Any) -> None:
    broker = start()
    with channel(broker.address) as link:
        stub = link.unary_unary(SERVICE + "GetBundle")
        with pytest.raises(grpc.RpcError) as caught:
            stub(bytes(300 * 1024), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert bundle(link, platform).LaunchId


def test_headers_that_are_too_large(start: Start, platform: Any) -> None:
    broker = start()
    with channel(broker.address) as link:
        with pytest.raises(grpc.RpcError):
            bundle(link, platform, metadata=(("x-filler", "x" * 20_000),))
        assert bundle(link, platform).LaunchId


def test_an_answer_nobody_waits_for_is_not_worked_on(start: Start, platform: Any) -> None:
    """Calls whose caller gave up while they waited for a thread are dropped."""
    entered, release, seen = threading.Semaphore(0), threading.Event(), []

    class Waiting:
        def record(self, decision: Decision, entry: Entry | None) -> None:
            seen.append(decision.call)
            entered.release()
            release.wait(30)

    broker = start(Waiting())
    with channel(broker.address) as link:
        stub = link.unary_unary(SERVICE + "GetOnlineSecret")
        busy = [stub.future(b"", timeout=30) for _ in range(8)]
        for _ in busy:
            assert entered.acquire(timeout=30)
        waiting = [stub.future(b"", timeout=30) for _ in range(20)]
        with channel(broker.address) as other, pytest.raises(grpc.RpcError):
            bundle(other, platform, timeout=0.5)  # behind them, and gives up
        for one in waiting:
            one.cancel()
        while broker._process._admission.calls > len(busy):
            pass  # until the server has heard of it
        release.set()
        for one in busy:
            with pytest.raises(grpc.RpcError):
                one.result()
    with channel(broker.address) as link:
        assert bundle(link, platform).LaunchId
    # Those that were cancelled before a thread was free have left no decision.
    assert seen == ["GetOnlineSecret"] * 8 + ["GetBundle"]


class TestHttp:
    """The listener of probes has the same sort of callers."""

    def test_slow_requests(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        from sealpod.kbs.server import web

        monkeypatch.setattr(web, "REQUEST_SECONDS", 0.3)
        monkeypatch.setattr(web, "KEEP_ALIVE", 0.3)
        broker = start(ops_listen="127.0.0.1:0")
        assert broker.ops_address is not None
        held = [connected(broker.ops_address) for _ in range(50)]
        for one in held:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        assert request(broker.ops_address, "GET", "/healthz").status == 200
        for one in held:
            assert one.recv(4096) == b""
            one.close()

    def test_too_many_connections(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        from sealpod.kbs.server import web

        monkeypatch.setattr(web, "MAX_CONNECTIONS", 4)
        broker = start(ops_listen="127.0.0.1:0")
        assert broker.ops_address is not None
        with ExitStack() as stack:
            for _ in range(6):
                held = stack.enter_context(connected(broker.ops_address))
                held.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            assert request(broker.ops_address, "GET", "/healthz").status == 503
            for _ in range(2):
                stack.enter_context(connected(broker.ops_address))
            with connected(broker.ops_address) as further:
                assert hung_up(further)

    def test_answers_nobody_takes(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        """Requests one after the other by who reads no answer: it would keep its place, and then all."""
        from sealpod.kbs.server import web

        monkeypatch.setattr(web, "TAKE_SECONDS", 0.3)
        broker = start(ops_listen="127.0.0.1:0")
        assert broker.ops_address is not None
        with connected(broker.ops_address) as deaf:
            deaf.settimeout(0.1)
            with suppress(TimeoutError):
                while True:  # until neither side takes any more
                    deaf.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
            ended = select.poll()
            ended.register(deaf, 0)  # an end is told without being asked for
            assert ended.poll(30_000)
        assert request(broker.ops_address, "GET", "/healthz").status == 200

    def test_headers_that_never_end(self, start: Start) -> None:
        broker = start(ops_listen="127.0.0.1:0")
        assert broker.ops_address is not None
        with connected(broker.ops_address) as link:
            link.sendall(b"GET /healthz HTTP/1.1\r\n" + b"x-filler: x\r\n" * 4000)
            assert link.recv(4096).startswith(b"HTTP/1.1 400 ")
            assert hung_up(link)
        assert request(broker.ops_address, "GET", "/healthz").status == 200


def hung_up(link: socket.socket) -> bool:
    """Whether the other side ends the connection; waits for it."""
    with suppress(ConnectionError):
        while link.recv(65536):
            pass
    return True


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)

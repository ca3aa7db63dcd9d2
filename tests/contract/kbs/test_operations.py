# SPDX-License-Identifier: Apache-2.0
"""Running the broker: probes, metrics, logs, waiting for the database, draining, retention, reload."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from brokerkit import bundle, call, channel, measured, request
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sealpod.errors import UnavailableError
from sealpod.kbs.core.audit import Decision, Entry
from sealpod.kbs.core.limits import Limits
from sealpod.kbs.server import RunningBroker, ServerConfig, readiness, serve
from sealpod.kbs.server.calls import SERVICE
from sealpod.kbs.server.database import open_waiting
from sealpod.wire.pb import keybroker_pb2 as pb

Start = Callable[..., RunningBroker]
Status = health_pb2.HealthCheckResponse


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kbs.db"


@pytest.fixture
def start(platform: Any, path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(auditor: Any = None, **options: Any) -> RunningBroker:
            options.setdefault("ops_listen", "127.0.0.1:0")
            config = ServerConfig("127.0.0.1:0", f"sqlite:///{path}", (platform.fingerprint,), **options)
            return stack.enter_context(serve(config, auditor=auditor))

        yield started


@contextmanager
def command(
    *options: str, ready: str = "^listening on ", **more: Any
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`sealpod kbs serve`, and what it said up to the line in which ``ready`` is found."""
    words = [sys.executable, "-m", "sealpod.cli.main", "kbs", "serve", "--listen", "127.0.0.1:0", *options]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, **more) as running:
        assert running.stderr is not None
        said = []
        try:
            for line in running.stderr:
                said.append(line.rstrip("\n"))
                if re.search(ready, line):
                    break
            yield running, said
        finally:
            running.kill()
            running.communicate(timeout=30)


def probe(broker: RunningBroker, what: str) -> Any:
    assert broker.ops_address is not None
    return request(broker.ops_address, "GET", what)


class TestProbes:
    def test_alive_and_ready(self, start: Start) -> None:
        broker = start()
        assert probe(broker, "/healthz").status == 200
        found = probe(broker, "/readyz")
        assert (found.status, found.json) == (
            200,
            {"ready": True, "checks": {"database": "ok", "sealer": "ok"}},
        )
        assert found.headers["cache-control"] == "no-store"
        assert "server" not in found.headers
        assert probe(broker, "/v1/secrets").status == 404

    def test_any_address_is_both_families(self, start: Start) -> None:
        broker = start(ops_listen="[::]:0")
        assert broker.ops_address is not None
        port = broker.ops_address.rpartition(":")[2]
        assert request(f"127.0.0.1:{port}", "GET", "/healthz").status == 200

    def test_not_ready_without_the_database(
        self, start: Start, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(readiness, "FRESH", 0.0)
        monkeypatch.setattr(readiness, "HEALTH_PERIOD", 0.05)
        broker = start()
        with channel(broker.address) as link:
            watched = health_pb2_grpc.HealthStub(link).Watch(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=30
            )
            assert next(watched).status == Status.SERVING
            with closing(sqlite3.connect(path)) as other:
                other.execute("ALTER TABLE secrets RENAME TO gone")
            found = probe(broker, "/readyz")
            assert found.status == 503
            assert found.json["checks"]["database"].startswith("store.")
            assert found.json["checks"]["sealer"] == "ok"
            assert next(watched).status == Status.NOT_SERVING
            assert probe(broker, "/healthz").status == 200  # alive: a restart would not help
            with closing(sqlite3.connect(path)) as other:
                other.execute("ALTER TABLE gone RENAME TO secrets")
            assert next(watched).status == Status.SERVING
            assert probe(broker, "/readyz").status == 200

    def test_probes_do_not_load_the_database(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        from sealpod.kbs.server import database

        asked = []
        monkeypatch.setattr(database, "check_database", lambda engine: asked.append(engine))
        monkeypatch.setattr(readiness, "FRESH", 3600.0)
        broker = start()
        for _ in range(20):
            assert probe(broker, "/readyz").status == 200
        assert len(asked) == 1


class TestMetrics:
    def test_what_is_counted(self, start: Start, platform: Any) -> None:
        broker = start()
        with channel(broker.address) as link:
            measured(link, platform).ask(link)
            bundle(link, platform)
            with pytest.raises(grpc.RpcError):
                call(link, "GetSecret", pb.SecretRequest(LaunchId="secret-looking-id"))
        text = probe(broker, "/metrics").body.decode()
        for line in (
            'sealpod_kbs_decisions_total{call="GetBundle",code="",outcome="granted"} 2.0',
            'sealpod_kbs_decisions_total{call="GetSecret",code="",outcome="granted"} 1.0',
            'sealpod_kbs_decisions_total{call="GetSecret",code="decode.guid",outcome="refused"} 1.0',
            'sealpod_kbs_call_seconds_count{call="GetBundle"} 2.0',
            "sealpod_kbs_launches_in_progress 1.0",
            "sealpod_kbs_calls_in_progress 0.0",
        ):
            assert line in text.splitlines(), line
        assert "process_resident_memory_bytes" in text
        assert "sealpod_kbs_database_connections_open " in text
        assert "secret-looking-id" not in text
        assert platform.fingerprint not in text
        assert probe(broker, "/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")

    def test_two_brokers_count_apart(self, start: Start, platform: Any) -> None:
        first, second = start(), start()
        with channel(first.address) as link:
            bundle(link, platform)
        assert "sealpod_kbs_decisions_total{" in probe(first, "/metrics").body.decode()
        assert "sealpod_kbs_decisions_total{" not in probe(second, "/metrics").body.decode()


class Held:
    """An auditor that keeps calls in progress until it is told to let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()

    def record(self, decision: Decision, entry: Entry | None) -> None:
        if decision.call == "GetBundle":
            self.entered.set()
            self.release.wait(30)


class TestDrain:
    def test_calls_in_progress_end_and_new_ones_are_refused(self, start: Start, platform: Any) -> None:
        held = Held()
        broker = start(held, drain_delay=0.5)
        with channel(broker.address) as link, channel(broker.address) as watching:
            watched = health_pb2_grpc.HealthStub(watching).Watch(health_pb2.HealthCheckRequest(), timeout=30)
            assert next(watched).status == Status.SERVING
            chain = pb.BundleRequest(CertificateChain="", Policy=3)
            stub = link.unary_unary("/keybroker.KeyBrokerService/GetBundle")
            running = stub.future(chain.SerializeToString(), timeout=30)
            assert held.entered.wait(30)
            stopping = threading.Thread(target=broker.stop)
            stopping.start()
            assert next(watched).status == Status.NOT_SERVING
            found = probe(broker, "/readyz")
            assert (found.status, found.json["checks"]["state"]) == (503, "draining")
            assert probe(broker, "/healthz").status == 200
            while refused_to_connect(broker.address, platform) is not grpc.StatusCode.UNAVAILABLE:
                pass  # still within the delay
            held.release.set()
            with pytest.raises(grpc.RpcError) as caught:
                running.result()
            # It was answered: this status is the key broker's own.
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            stopping.join(timeout=30)
            assert not stopping.is_alive()

    def test_the_end_is_bounded(self, start: Start) -> None:
        held = Held()
        broker = start(held)
        with channel(broker.address) as link:
            stub = link.unary_unary("/keybroker.KeyBrokerService/GetBundle")
            running = stub.future(b"", timeout=30)
            assert held.entered.wait(30)
            stopping = threading.Thread(target=broker.stop, args=(0.1,))
            stopping.start()
            with pytest.raises(grpc.RpcError) as caught:
                running.result()
            assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            held.release.set()
            stopping.join(timeout=30)
            assert not stopping.is_alive()

    def test_a_second_stop_does_nothing(self, start: Start) -> None:
        broker = start()
        broker.stop()
        broker.stop()


def refused_to_connect(address: str, platform: Any) -> grpc.StatusCode | None:
    with channel(address) as link:
        try:
            call(link, "GetSecret", pb.SecretRequest(), timeout=5)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return None


class TestDatabase:
    def test_waiting_ends_when_it_answers(self) -> None:
        attempts: list[int] = []

        def opener() -> Any:
            attempts.append(1)
            if len(attempts) < 4:
                raise UnavailableError("the database does not answer (refused)", code="store.unavailable")
            return "open"

        now = iter(range(100))
        waited: list[float] = []
        opened: Any = open_waiting(opener, seconds=60, sleep=waited.append, clock=lambda: float(next(now)))
        assert opened == "open"
        assert waited == [0.5, 0.5, 0.5]

    @pytest.mark.parametrize(("seconds", "words"), [(0.0, "--wait-for-database"), (5.0, "for 5 seconds")])
    def test_waiting_ends_when_the_time_is_over(self, seconds: float, words: str) -> None:
        def opener() -> Any:
            raise UnavailableError("the database does not answer (refused)", code="store.unavailable")

        now = iter(range(100))
        with pytest.raises(UnavailableError) as caught:
            open_waiting(opener, seconds=seconds, sleep=lambda _: None, clock=lambda: float(next(now)))
        assert words in caught.value.one_line()
        assert caught.value.code == "store.unavailable"

    def test_a_refusal_is_not_waited_for(self) -> None:
        from sealpod.errors import AccessError

        def opener() -> Any:
            raise AccessError("no permission", code="store.access")

        with pytest.raises(AccessError):
            open_waiting(opener, seconds=3600, sleep=lambda _: pytest.fail("waited"))

    @pytest.fixture
    def nobody(self) -> Iterator[dict[str, str]]:
        """The environment of a broker whose database's port is bound, and nobody listens."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            environment = {
                **os.environ,
                "KBS_DB_TYPE": "mysql",
                "KBS_DB_HOST": f"127.0.0.1:{unused.getsockname()[1]}",
                "KBS_DB_USER": "kbsuser",
                "KBS_DB_PW": "planted-password",
                "KBS_DB": "simple_kbs",
            }
            environment.pop("SEALPOD_KBS_DATABASE", None)
            yield environment

    def test_the_command_says_what_it_waits_for(self, nobody: dict[str, str]) -> None:
        options = ("--wait-for-database", "0.6", "--kek", "none")
        with command(*options, env=nobody, ready="^sealpod: error:") as (running, said):
            assert running.wait(timeout=30) == 6
        assert any("waiting for the database" in line for line in said)
        assert "for 0.6 seconds" in said[-1]
        assert "planted-password" not in "\n".join(said)

    @pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
    def test_the_command_can_be_stopped_while_it_waits(
        self, nobody: dict[str, str], stop: signal.Signals
    ) -> None:
        options = ("--wait-for-database", "3600", "--kek", "none")
        with command(*options, env=nobody, ready="waiting for the database") as (running, _):
            running.send_signal(signal.SIGHUP)  # everything is read anew anyway
            running.send_signal(stop)
            assert running.stderr is not None
            assert "stopped while waiting" in running.stderr.read()
            assert running.wait(timeout=30) == 0


def test_systemd_is_told(path: Path, tmp_path: Path) -> None:
    """Ready, reading again, ready again, ending; on the socket it names."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "n"))
        notified.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "n")}
        with command("--database", f"sqlite:///{path}", env=environment) as (running, _):
            assert notified.recv(100) == b"READY=1"
            running.send_signal(signal.SIGHUP)
            assert [notified.recv(100) for _ in range(2)] == [b"RELOADING=1", b"READY=1"]
            running.terminate()
            assert notified.recv(100) == b"STOPPING=1"
            assert running.wait(timeout=30) == 0


class TestLogs:
    def test_one_json_object_a_line(self, platform: Any, path: Path) -> None:
        options = ("--database", f"sqlite:///{path}", "--trust-ark", platform.fingerprint)
        options += ("--ops-listen", "127.0.0.1:0", "--log-format", "json")
        with command(*options, ready=r'"listening on [^,]*"}$') as (running, said):
            address = json.loads(said[-1])["message"].split()[-1]
            with channel(address) as link:
                with pytest.raises(grpc.RpcError) as caught:
                    call(link, "GetSecret", pb.SecretRequest(), metadata=(("x-request-id", "mine-1"),))
                answer = dict(caught.value.trailing_metadata())
                assert answer["sealpod-request"] == "mine-1"
                with pytest.raises(grpc.RpcError) as caught:
                    call(
                        link,
                        "GetSecret",
                        pb.SecretRequest(),
                        metadata=(("x-request-id", 'no "word"\n'.strip()),),
                    )
                other = dict(caught.value.trailing_metadata())["sealpod-request"]
                assert len(other) == 32
            running.send_signal(signal.SIGTERM)
            assert running.stderr is not None
            said += running.stderr.read().splitlines()
            assert running.wait(timeout=30) == 0
        records = [json.loads(line) for line in said]  # no line of another form among them
        assert {"time", "level", "logger", "request", "message"} <= set(records[0])
        by_request = {one["request"]: one for one in records if one["logger"] == "sealpod.kbs.audit"}
        assert set(by_request) == {"mine-1", other}
        assert by_request["mine-1"]["level"] == "warning"
        assert [one["message"].split(" on ")[0] for one in records if " on 127." in one["message"]] == [
            "listening", "probes and metrics", "listening",
        ]  # fmt: skip
        assert not [one for one in records if "plugin" in one["logger"]]

    def test_a_crash_leaves_no_core(self, path: Path) -> None:
        """With keys and secrets in it; nor does a collector of cores get one."""
        with command("--database", f"sqlite:///{path}") as (running, _said):
            limits = Path(f"/proc/{running.pid}/limits").read_text()
        (found,) = [line.split() for line in limits.splitlines() if line.startswith("Max core file size")]
        assert found[4:6] == ["0", "0"]

    @pytest.mark.parametrize(("value", "shown"), [("debug", True), ("error", False), ("h2=trace,info", True)])
    def test_rust_log(self, path: Path, value: str, shown: bool) -> None:
        environment = {**os.environ, "RUST_LOG": value}
        with command("--database", f"sqlite:///{path}", env=environment) as (_, said):
            pass
        assert any("trusting AMD" in line for line in said) is shown


class TestCompatibility:
    """What simple-kbs' process reads and is told."""

    def test_its_option_variables_and_files(self, platform: Any, path: Path, tmp_path: Path) -> None:
        (tmp_path / "default_policy.json").write_text(
            json.dumps(
                {
                    "allowed_digests": [],
                    "allowed_policies": [],
                    "min_fw_api_major": 9,
                    "min_fw_api_minor": 0,
                    "allowed_build_ids": [],
                }
            )
        )
        environment = {**os.environ, "KBS_DB_TYPE": "sqlite", "KBS_DB": str(path)}
        for name in ("HOST", "USER", "PW"):
            environment[f"KBS_DB_{name}"] = "unused"
        environment.pop("SEALPOD_KBS_DATABASE", None)
        options = ("--grpc_sock", "127.0.0.1:0", "--trust-ark", platform.fingerprint)
        with ExitStack() as stack:
            running, said = stack.enter_context(command(*options, env=environment, cwd=tmp_path))
            link = stack.enter_context(channel(said[-1].split()[-1]))
            launch = measured(link, platform)
            assert refusal(launch, link) == "Policy validation failed: fw api major not valid"
            # Read again when it changes, without a signal.
            policy = json.loads((tmp_path / "default_policy.json").read_text())
            (tmp_path / "fresh").write_text(json.dumps({**policy, "min_fw_api_major": 0}))
            (tmp_path / "fresh").rename(tmp_path / "default_policy.json")
            assert launch.ask(link) == {}
            # One that cannot be read leaves the last good one in force.
            (tmp_path / "default_policy.json").write_text(json.dumps({**policy, "min_fw_api_major": 9}))
            launch = measured(link, platform)
            assert refusal(launch, link).endswith("fw api major not valid")
            (tmp_path / "default_policy.json").write_text("{")
            running.send_signal(signal.SIGHUP)
            assert refusal(launch, link).endswith("fw api major not valid")

    def test_a_hangup_is_no_end(self, platform: Any, path: Path) -> None:
        options = ("--database", f"sqlite:///{path}", "--trust-ark", platform.fingerprint)
        with command(*options) as (running, said):
            for _ in range(3):
                running.send_signal(signal.SIGHUP)
            with channel(said[-1].split()[-1]) as link:
                assert bundle(link, platform).LaunchId
            assert running.poll() is None


def refusal(launch: Any, link: grpc.Channel) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        launch.ask(link)
    return str(caught.value.details())


class TestRetention:
    def test_launches_past_their_time_are_removed(
        self, start: Start, platform: Any, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sealpod.kbs.server import process

        broker = start(limits=Limits(launch_ttl=0.0))
        with channel(broker.address) as link:
            bundle(link, platform)
        broker.stop()
        purged = threading.Event()
        real = process.purge

        def seen(*arguments: Any, **options: Any) -> Any:
            result = real(*arguments, **options)
            purged.set()
            return result

        monkeypatch.setattr(process, "purge", seen)
        start()
        assert purged.wait(30)
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("SELECT count(*) FROM sealpod_launches").fetchone() == (0,)


class TestReplicas:
    """Brokers that share a database share launches."""

    def test_another_broker_finishes_a_launch_once(self, start: Start, platform: Any) -> None:
        first, second = start(), start()
        with channel(first.address) as one, channel(second.address) as other:
            launch = measured(one, platform)
            assert launch.ask(other) == {}
            for link in (one, other):
                assert refusal(launch, link).startswith("Launch ID not found. UUID: ")

    def test_a_launch_outlives_its_broker(self, start: Start, platform: Any) -> None:
        broker = start()
        with channel(broker.address) as link:
            launch = measured(link, platform)
        broker.stop()
        with channel(start().address) as link:
            assert launch.ask(link) == {}

    def test_a_small_pool_of_connections_serves_all(self, start: Start, platform: Any) -> None:
        broker = start(pool=2)
        with ExitStack() as stack:
            links = [stack.enter_context(channel(broker.address)) for _ in range(6)]
            threads = [threading.Thread(target=measured, args=(link, platform)) for link in links]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(timeout=60)
            assert "sealpod_kbs_launches_in_progress 6.0" in probe(broker, "/metrics").body.decode()

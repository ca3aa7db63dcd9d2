# SPDX-License-Identifier: Apache-2.0
"""``sealpod sandbox`` against state on disk and a shim that answers on its socket."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealpod.cli import main as cli
from sealpod.errors import ConflictError, NotFoundError, RefusedError, UnavailableError
from sealpod.sandbox import state
from sealpod.sandbox.state import SandboxState
from sealpod.wire.ttrpc import RESPONSE, Frame, FrameDecoder, Request, Response, encode_frame

ANSWERS = {
    "Inspect": {"state": "running", "containers": [{"id": "c1"}]},
    "Console": {"lines": ["hello from the guest"]},
}


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(state.ENVIRONMENT, str(tmp_path))
    return tmp_path


@pytest.fixture
def shim(run: Path) -> Iterator[str]:
    path = str(run / "shim.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            decoder = FrameDecoder()
            while not (frames := decoder.feed(connection.recv(65536))):
                pass
            (frame,) = frames
            assert isinstance(frame, Frame)
            request = Request.decode(frame.payload)
            assert request.service == "sealpod.Sandbox"
            answer = ANSWERS.get(request.method)
            response = (
                Response(code=7, message="GetMetricsRequest is blocked [agent.blocked]")
                if answer is None
                else Response(payload=json.dumps(answer).encode())
            )
            connection.sendall(encode_frame(Frame(frame.stream, RESPONSE, response.encode())))


def sandbox(sandbox_id: str, path: str, *, alive: bool = True) -> None:
    place = SandboxState(sandbox_id)
    place.create()
    entry = state.process_record(os.getpid())
    entry["started"] += 0 if alive else 1
    place.write({"id": sandbox_id, "pod": "default/web", "socket": path, "processes": {"shim": entry}})


def command(*words: str) -> int:
    return cli.dispatch(["sandbox", *words])


def test_the_living_and_the_dead_are_listed(shim: str, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox("aaaa", shim)
    sandbox("bbbb", "/nowhere", alive=False)
    assert command("ls", "-o", "json") == 0
    rows = json.loads(capsys.readouterr().out)["sandboxes"]
    assert [(row["id"], row["state"], row["pod"]) for row in rows] == [
        ("aaaa", "running", "default/web"),
        ("bbbb", "dead", "default/web"),
    ]
    assert command("ls") == 0
    assert "sealpod sandbox rm" in capsys.readouterr().out


def test_inspect_and_console_ask_the_shim(shim: str, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox("aaaa", shim)
    assert command("inspect", "aa", "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["containers"] == [{"id": "c1"}]
    assert found["pod"] == "default/web"
    assert command("console", "aaaa") == 0
    assert capsys.readouterr().out == "hello from the guest\n"


def test_a_dead_sandbox_is_shown_from_disk_and_removed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox("bbbb", "/nowhere", alive=False)
    SandboxState("bbbb").write_console(["last words"])
    assert command("console", "bbbb") == 0
    assert capsys.readouterr().out == "last words\n"
    assert command("inspect", "bbbb") == 0
    assert "dead" in capsys.readouterr().out
    assert command("rm", "bbbb") == 0
    assert os.listdir(run / "sandboxes") == []


def test_refusals(shim: str) -> None:
    sandbox("aaaa", shim)
    sandbox("aabb", "/nowhere/shim.sock")
    with pytest.raises(ConflictError, match="is running"):
        command("rm", "aaaa")
    with pytest.raises(ConflictError, match="2 sandboxes"):
        command("inspect", "aa")
    with pytest.raises(NotFoundError):
        command("inspect", "x")
    with pytest.raises(UnavailableError) as caught:
        command("console", "aabb")
    assert caught.value.code == "sandbox.dead"
    with pytest.raises(RefusedError) as refused:
        command("metrics", "aaaa")
    assert refused.value.code == "agent.blocked"

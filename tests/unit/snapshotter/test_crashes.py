# SPDX-License-Identifier: Apache-2.0
"""The process as systemd has it: ready line, signals, and what a kill at any point leaves behind."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from snapshotkit import REF, Client

from sealpod.snapshotter.rows import Place
from sealpod.snapshotter.store import Store
from sealpod.wire.snapshotapi import ACTIVE, COMMITTED


@contextmanager
def process(place: Path, *more: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    words = ["snapshotter", "--address", str(place / "s"), "--root", str(place / "root"), *more]
    with subprocess.Popen(
        [sys.executable, "-m", "sealpod.cli.main", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    ) as made:
        try:
            yield made
        finally:
            made.kill()


def ready(made: subprocess.Popen[bytes]) -> bytes:
    assert made.stdout is not None
    assert select.select([made.stdout], [], [], 60)[0]
    return made.stdout.readline()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_when_it_is_ready_and_ends_when_told(tmp_path: Path, number: signal.Signals) -> None:
    with process(tmp_path) as made:
        assert ready(made) == f"snapshotter ready on {tmp_path}/s\n".encode()
        assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o600
        made.send_signal(number)
        assert made.wait(30) == 0
    assert not (tmp_path / "s").exists()


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "n"))
        notified.settimeout(60)
        with process(tmp_path, NOTIFY_SOCKET=str(tmp_path / "n")) as made:
            assert notified.recv(100) == b"READY=1"
            made.terminate()
            assert notified.recv(100) == b"STOPPING=1"
            assert made.wait(30) == 0


def test_a_second_one_is_refused_in_one_line(tmp_path: Path) -> None:
    with process(tmp_path) as made:
        ready(made)
        with process(tmp_path) as second:
            output, errors = second.communicate(timeout=60)
        assert (second.returncode, output) == (5, b"")
        assert errors.decode().rstrip().endswith("[snapshotter.in-use]")
        made.terminate()
        assert made.wait(30) == 0


def test_a_kill_at_any_point_leaves_what_the_next_start_mends(tmp_path: Path) -> None:
    luck = random.Random(7)
    done: dict[str, bool] = {}  # what a call was answered for: name to whether it is there
    for life in range(4):
        with process(tmp_path) as made:
            ready(made)
            client = Client(str(tmp_path / "s"))
            assert {name for name in client.list() if name in done} == {name for name in done if done[name]}
            consistent(client, tmp_path / "root" / "snapshots")
            timer = threading.Timer(luck.uniform(0.05, 0.3), made.kill)
            timer.start()
            work(client, life, done)
            timer.join()
            made.wait(30)
            client.close()


def work(client: Client, life: int, done: dict[str, bool]) -> None:
    """Calls until the process is gone. A call without an answer may have been carried out or not."""
    number = 0
    try:
        while True:
            name, number = f"{life}-{number}", number + 1
            client("Prepare", key=name, labels={"x": "y"})
            done[name] = True
            if number % 2:
                del done[name]
                client("Remove", key=name)
                done[name] = False
            layer = f"sha256:{name}"
            try:
                client("Prepare", key=f"extract-{name}", labels={REF: layer})
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    raise
                done[layer] = True
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise


def consistent(client: Client, directory: Path) -> None:
    infos = [info for page in client.infos() for info in page]
    sources = {
        Path(client("Mounts", key=info.name).mounts[0].source).parent.name
        for info in infos
        if info.kind != COMMITTED
    }
    assert sources == set(os.listdir(directory))
    assert all(os.path.isdir(directory / name / "fs") for name in sources)


# --- each point on its own -----------------------------------------------------------------------------


def test_a_directory_whose_row_was_not_committed_is_removed(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    store.directories.make(1, work=True)
    store.close()
    store = Store(str(tmp_path / "root"))
    assert store.all() == []
    assert os.listdir(tmp_path / "root" / "snapshots") == []
    store.close()


def test_a_row_whose_directory_is_lost_gets_it_back(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    store.add("a", "", ACTIVE, Place.HOST, {})
    store.directories.remove(store.get("a").id)
    store.close()
    store = Store(str(tmp_path / "root"))
    number = store.get("a").id
    assert os.path.isdir(store.directories.files(number))
    assert os.path.isdir(store.directories.work(number))
    store.close()


def test_a_failure_while_making_directories_leaves_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "root"))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            store.add("a", "", ACTIVE, Place.GUEST, {})
    assert store.all() == []
    assert os.listdir(tmp_path / "root" / "snapshots") == []
    store.add("a", "", ACTIVE, Place.GUEST, {})
    store.close()


def test_numbers_are_not_given_twice(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    store.add("a", "", ACTIVE, Place.GUEST, {})
    first = store.get("a").id
    store.remove("a")
    store.close()
    store = Store(str(tmp_path / "root"))
    store.add("a", "", ACTIVE, Place.GUEST, {})
    assert store.get("a").id > first
    store.close()


def test_what_cannot_be_removed_now_is_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "root"))
    store.add("a", "", ACTIVE, Place.GUEST, {})

    def busy(path: str) -> None:
        raise OSError(16, "Device or resource busy", path)

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", busy)
        store.remove("a")
    assert store.all() == []
    assert os.listdir(tmp_path / "root" / "snapshots") != []
    store.clean_up()
    assert os.listdir(tmp_path / "root" / "snapshots") == []
    store.close()

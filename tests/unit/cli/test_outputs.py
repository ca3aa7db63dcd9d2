# SPDX-License-Identifier: Apache-2.0
"""Files of a command: permissions from the first byte, all or none, and what was there before."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sealpod.cli import outputs
from sealpod.cli.outputs import OutputFile, write_outputs
from sealpod.errors import AccessError, ConflictError, NotFoundError, OperationError
from sealpod.secret import SecretBytes

KEY = SecretBytes(b"sixteen byte key")


def public(path: Path, data: bytes = b"new") -> OutputFile:
    return OutputFile(str(path), data)


def key(path: Path) -> OutputFile:
    return OutputFile(str(path), KEY)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refuse(name: str, monkeypatch: pytest.MonkeyPatch, path: Path, number: int = errno.EPERM) -> None:
    """Let ``os.<name>`` fail whenever its last path is ``path``."""
    real = getattr(os, name)

    def failing(*args: str, **options: object) -> None:
        if args[-1] == str(path):
            raise OSError(number, os.strerror(number))
        real(*args, **options)

    monkeypatch.setattr(outputs.os, name, failing)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_outputs([public(tmp_path / "cert"), key(tmp_path / "tik")])
    finally:
        os.umask(before)
    assert mode(tmp_path / "cert") == 0o644
    assert mode(tmp_path / "tik") == 0o600
    assert (tmp_path / "tik").read_bytes() == KEY.reveal()
    assert sorted(os.listdir(tmp_path)) == ["cert", "tik"]


def test_a_key_is_never_readable_by_others_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "tik"
    target.write_bytes(b"old")
    target.chmod(0o666)
    seen: list[tuple[bytes, int]] = []
    real = os.replace

    def watching(source: str, destination: str) -> None:
        seen.extend((path.read_bytes(), mode(path)) for path in tmp_path.iterdir())
        real(source, destination)

    monkeypatch.setattr(outputs.os, "replace", watching)
    write_outputs([key(target)])
    assert (KEY.reveal(), 0o600) in seen
    assert all(found == 0o600 for content, found in seen if content == KEY.reveal())
    assert mode(target) == 0o600


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failed_move_undoes_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    paths[0].write_bytes(b"old a")
    paths[2].write_bytes(b"old c")
    refuse("replace", monkeypatch, paths[failing])
    with pytest.raises(AccessError):
        write_outputs([public(path) for path in paths])
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]
    assert paths[0].read_bytes() == b"old a"
    assert paths[2].read_bytes() == b"old c"


@pytest.fixture(params=[False, True], ids=["alone", "beside a thread"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """A second thread may be given the signals that the first one does not take."""
    over = threading.Event()
    beside = [threading.Thread(target=over.wait)] if request.param else []
    for thread in beside:
        thread.start()
    yield
    over.set()
    for thread in beside:
        thread.join()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("keep", [False, True])
def test_an_interrupt_waits_and_then_undoes_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    (tmp_path / "a").write_bytes(b"old a")
    real = os.replace

    def interrupted(source: str, destination: str) -> None:
        real(source, destination)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(outputs.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_outputs([public(tmp_path / "a"), key(tmp_path / "tik")], replace_keys=not keep)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old a"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("force", [False, True])
def test_a_signal_that_ends_the_process_leaves_the_old_files_alone(
    tmp_path: Path, number: signal.Signals, force: bool
) -> None:
    (tmp_path / "a").write_bytes(b"old a")
    program = f"""
import os
from sealpod.cli.outputs import OutputFile, write_outputs
from sealpod.secret import SecretBytes
real = os.fsync
def signalled(fd):
    real(fd)
    os.kill(os.getpid(), {number:d})
os.fsync = signalled
key = OutputFile("tik", SecretBytes(b"sixteen byte key"))
write_outputs([OutputFile("a", b"new"), key], replace_keys={force})
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False)
    assert ended.returncode == -number
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old a"


def test_a_signal_that_is_ignored_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(outputs.os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGHUP))
        write_outputs([public(tmp_path / "a"), key(tmp_path / "tik")])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert sorted(os.listdir(tmp_path)) == ["a", "tik"]


def test_a_full_disk_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(outputs.os, "fsync", full)
    with pytest.raises(OperationError) as caught:
        write_outputs([key(tmp_path / "tik")])
    assert "make room" in caught.value.remedy
    assert os.listdir(tmp_path) == []


def test_a_failed_key_undoes_the_public_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse("link", monkeypatch, tmp_path / "tik", errno.EEXIST)
    with pytest.raises(ConflictError):
        write_outputs([public(tmp_path / "godh"), key(tmp_path / "tik")], replace_keys=False)
    assert os.listdir(tmp_path) == []


def test_nothing_is_written_when_a_directory_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        write_outputs([public(tmp_path / "a"), public(tmp_path / "missing" / "b")])
    assert caught.value.code == "output.directory"
    assert os.listdir(tmp_path) == []


def test_a_directory_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    with pytest.raises(OperationError) as caught:
        write_outputs([public(tmp_path / "a"), public(tmp_path / "dir")])
    assert caught.value.code == "output.failed"
    assert os.listdir(tmp_path) == ["dir"]


def test_keys_are_kept_on_demand_and_public_files_still_replaced(tmp_path: Path) -> None:
    (tmp_path / "tik").write_bytes(b"old key")
    (tmp_path / "godh").write_bytes(b"old")
    with pytest.raises(ConflictError) as caught:
        write_outputs([public(tmp_path / "godh"), key(tmp_path / "tik")], replace_keys=False)
    assert caught.value.code == "output.exists"
    assert "--force" in caught.value.remedy
    assert (tmp_path / "godh").read_bytes() == b"old"
    assert (tmp_path / "tik").read_bytes() == b"old key"
    (tmp_path / "tik").unlink()
    write_outputs([public(tmp_path / "godh"), key(tmp_path / "tik")], replace_keys=False)
    assert (tmp_path / "godh").read_bytes() == b"new"
    write_outputs([key(tmp_path / "tik")])


def test_two_outputs_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConflictError) as caught:
        write_outputs([public(tmp_path / "x"), key(tmp_path / "." / "x")])
    assert caught.value.code == "output.same"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("links", [False, True])
def test_a_failed_move_keeps_the_old_file_with_and_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_links(*args: str, **options: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(outputs.os, "link", no_links)
    real = os.replace
    calls: list[str] = []

    def failing_once(source: str, destination: str) -> None:
        calls.append(destination)
        if len(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, destination)

    (tmp_path / "cert").write_bytes(b"old")
    monkeypatch.setattr(outputs.os, "replace", failing_once)
    with pytest.raises(OperationError):
        write_outputs([public(tmp_path / "cert")])
    assert (tmp_path / "cert").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["cert"]


@pytest.mark.parametrize("keep", [False, True])
def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    def no_links(*args: str, **options: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(outputs.os, "link", no_links)
    (tmp_path / "cert").write_bytes(b"old")
    write_outputs([public(tmp_path / "cert"), key(tmp_path / "tik")], replace_keys=not keep)
    assert (tmp_path / "cert").read_bytes() == b"new"
    assert mode(tmp_path / "tik") == 0o600
    assert sorted(os.listdir(tmp_path)) == ["cert", "tik"]


def test_public_files_follow_links_and_keys_do_not(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(b"old")
    for name in ("cert", "tik"):
        (tmp_path / name).symlink_to("real")
    write_outputs([public(tmp_path / "cert"), key(tmp_path / "tik")])
    assert real.read_bytes() == b"new"
    assert (tmp_path / "cert").is_symlink()
    assert not (tmp_path / "tik").is_symlink()
    assert (tmp_path / "tik").read_bytes() == KEY.reveal()


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_outputs([public(pipe)])
    reader.join()
    assert got == [b"new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_broken_pipe_leaves_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "a").write_bytes(b"old a")
    real = open

    def broken(path: object, *args: Any, **options: Any) -> Any:
        if path == str(pipe):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        return real(path, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(outputs, "open", broken, raising=False)
    with pytest.raises(OperationError):
        write_outputs([public(pipe), public(tmp_path / "a"), key(tmp_path / "tik")])
    assert (tmp_path / "a").read_bytes() == b"old a"
    assert sorted(os.listdir(tmp_path)) == ["a", "pipe"]


def test_devices_stay_devices() -> None:
    write_outputs([OutputFile("/dev/null", b"new")])
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)

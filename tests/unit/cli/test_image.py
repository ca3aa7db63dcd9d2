# SPDX-License-Identifier: Apache-2.0
"""``sealpod image`` on layouts: results, wrong use, and what appears on the screen."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from imagekit import KEK, put_image, sample_layers

from sealpod.cli import main as cli
from sealpod.errors import AccessError, DecodeError, NotFoundError, SealpodError, UsageError
from sealpod.registry.layout import LayoutSink


@pytest.fixture
def plain(tmp_path: Path) -> str:
    put_image(LayoutSink(str(tmp_path / "plain")), "v1", sample_layers())
    (tmp_path / "key").write_bytes(KEK.reveal())
    return f"oci:{tmp_path}/plain:v1"


def encrypt(plain: str, tmp_path: Path, *more: str) -> int:
    target = f"oci:{tmp_path}/enc:v1"
    options = ["--key-id", "key_id1", "--key-file", str(tmp_path / "key"), *more]
    return cli.dispatch(["image", "encrypt", plain, target, *options])


def test_encrypt(plain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encrypt(plain, tmp_path) == 0
    captured = capsys.readouterr()
    assert "2 layers encrypted for key key_id1" in captured.out
    assert "encrypting layer 1 of 2" in captured.err
    assert "verifying layer 2 of 2" in captured.err
    assert KEK.reveal().decode() not in captured.out + captured.err


@pytest.mark.parametrize("algorithm", ["aes_256_ctr", "A256GCM", "A256CTR"])
def test_encrypt_as_json(
    algorithm: str, plain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encrypt(plain, tmp_path, "--algorithm", algorithm, "-q", "-o", "json") == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert captured.err == ""
    assert document["schemaVersion"] == 1
    assert [layer["encrypted"] for layer in document["layers"]] == [True, True]


def test_inspect(plain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encrypt(plain, tmp_path)
    capsys.readouterr()
    assert cli.dispatch(["image", "inspect", plain]) == 0
    assert capsys.readouterr().out.count(", plain\n") == 2
    assert cli.dispatch(["image", "inspect", f"oci:{tmp_path}/enc:v1"]) == 0
    assert capsys.readouterr().out.count("encrypted for key_id1") == 2
    assert cli.dispatch(["image", "inspect", f"oci:{tmp_path}/enc", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["platform"] == "linux/amd64"
    assert document["layers"][0]["mediaType"].endswith("+gzip+encrypted")


def test_copy(plain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.dispatch(["image", "copy", plain, f"oci:{tmp_path}/copy:v2", "-o", "json"]) == 0
    digest = json.loads(capsys.readouterr().out)["manifestDigest"]
    index = json.loads((tmp_path / "copy/index.json").read_bytes())
    assert index["manifests"][0]["digest"] == digest


@pytest.mark.parametrize("size", [0, 31, 33, 44, 1000])
def test_a_key_file_of_another_size(size: int, plain: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(os.urandom(size))
    with pytest.raises(UsageError, match="need 32 raw bytes") as caught:
        encrypt(plain, tmp_path)
    assert caught.value.code == "image.key-size"
    assert not (tmp_path / "enc").exists()


def test_a_missing_key_file(plain: str, tmp_path: Path) -> None:
    (tmp_path / "key").unlink()
    with pytest.raises(NotFoundError, match="key file"):
        encrypt(plain, tmp_path)


WRONG: list[tuple[list[str], type[SealpodError]]] = [
    (["copy", "{plain}", "docker-archive:x.tar"], UsageError),
    (["copy", "{plain}", "dir:x"], UsageError),
    (["copy", "busybox", "oci:x"], UsageError),
    (["inspect", "{plain}", "--platform", "linux"], UsageError),
    (["inspect", "{plain}", "--platform", "linux/arm64"], DecodeError),
    (["inspect", "oci:/nonexistent:v1"], NotFoundError),
    (["inspect", "{plain}x"], NotFoundError),
    (["inspect", "{plain}", "--auth-file", "/nonexistent"], NotFoundError),
]


@pytest.mark.parametrize(("arguments", "kind"), WRONG)
def test_wrong_use(arguments: list[str], kind: type[SealpodError], plain: str) -> None:
    with pytest.raises(kind):
        cli.dispatch(["image", *(argument.replace("{plain}", plain) for argument in arguments)])


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
def test_a_key_file_of_someone_else(plain: str, tmp_path: Path) -> None:
    (tmp_path / "key").chmod(0o600)
    tmp_path.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            encrypt(plain, tmp_path)
        except AccessError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_exit_status_and_one_line(
    plain: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sealpod", "image", "inspect", f"{plain}x"])
    assert cli.main() == 4
    error = capsys.readouterr().err
    assert error.startswith("sealpod: error: ")
    assert error.endswith("[image.not-found]\n")
    assert error.count("\n") == 1


def test_help_names_the_transports(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.dispatch(["image", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "oci:DIRECTORY[:TAG]" in text
    assert "sealpod image encrypt" in text

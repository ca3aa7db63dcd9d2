# SPDX-License-Identifier: Apache-2.0
"""OCI layouts on disk, image names, auth files."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagekit import Pieces, put_image, sample_layers

from sealpod.errors import (
    AccessError,
    DecodeError,
    NotFoundError,
    OperationError,
    SealpodError,
    UsageError,
    VerificationError,
)
from sealpod.oci.reference import ImageReference
from sealpod.registry.authfile import parse_auth_file
from sealpod.registry.http import RegistrySink, RegistrySource
from sealpod.registry.layout import LayoutSink, LayoutSource
from sealpod.registry.transports import open_sink, open_source


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_layout_on_disk(tmp_path: Path) -> None:
    sink = LayoutSink(str(tmp_path / "image"))
    raw = put_image(sink, "v1", sample_layers())
    assert json.loads((tmp_path / "image/oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((tmp_path / "image/index.json").read_bytes())
    [entry] = index["manifests"]
    assert (entry["digest"], entry["annotations"]) == (
        str(raw.digest),
        {"org.opencontainers.image.ref.name": "v1"},
    )
    assert sum(name.startswith("blobs/sha256/") for name in files(tmp_path / "image")) == 4
    assert not any(".new-" in name for name in files(tmp_path))


def test_tags(tmp_path: Path) -> None:
    sink = LayoutSink(str(tmp_path))
    one = put_image(sink, "v1", sample_layers())
    assert LayoutSource(str(tmp_path)).manifest("") == one
    two = put_image(sink, "v2", sample_layers())
    source = sink.reader()
    assert (source.manifest("v1"), source.manifest("v2")) == (one, two)
    assert source.manifest(str(one.digest)) == one
    for selector in ("", "v3"):
        with pytest.raises(NotFoundError, match="v1, v2") as caught:
            source.manifest(selector)
        assert caught.value.code == "image.not-found"
    replaced = put_image(sink, "v1", sample_layers()[:1])
    assert source.manifest("v1") == replaced
    assert len(json.loads((tmp_path / "index.json").read_bytes())["manifests"]) == 2


def test_an_image_without_a_tag_is_listed_once(tmp_path: Path) -> None:
    sink = LayoutSink(str(tmp_path))
    raw = put_image(sink, "", sample_layers())
    sink.put_manifest("", raw)
    assert LayoutSource(str(tmp_path)).manifest("") == raw


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("a file")])
def test_no_layout(make: object, tmp_path: Path) -> None:
    make(tmp_path / "x")  # type: ignore[operator]
    with pytest.raises(NotFoundError) as caught:
        LayoutSource(str(tmp_path / "x")).manifest("v1")
    assert caught.value.code == "image.not-found"


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    class Broken(Pieces):
        def read(self, size: int, /) -> bytes:
            raise VerificationError("damaged")

    with pytest.raises(VerificationError):
        LayoutSink(str(tmp_path)).put_blob(Broken(b""))
    assert files(tmp_path) == {"oci-layout"}


def test_a_target_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(OperationError):
        LayoutSink(str(tmp_path / "x")).put_blob(Pieces(b"x"))


@given(st.binary(max_size=100))
def test_a_damaged_index(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "index.json").write_bytes(data)
        with pytest.raises(SealpodError):
            LayoutSource(directory).manifest("v1")


# Names.


def test_names(tmp_path: Path) -> None:
    source, selector = open_source(f"oci:{tmp_path}:v1")
    assert isinstance(source, LayoutSource)
    assert selector == "v1"
    assert open_source(f"oci:{tmp_path}").selector == ""
    source, selector = open_source("docker://127.0.0.1:5000/t/app")
    assert isinstance(source, RegistrySource)
    assert selector == "latest"
    assert isinstance(open_sink("docker://127.0.0.1:5000/t/app:v2").sink, RegistrySink)
    assert open_source("docker://busybox@sha256:" + "0" * 64).selector.startswith("sha256:")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", UsageError),
        ("busybox", UsageError),
        ("oci:", UsageError),
        ("oci::tag", UsageError),
        ("docker:busybox", UsageError),
        ("docker://", UsageError),
        ("docker://Upper", DecodeError),
        ("docker-archive:x.tar", UsageError),
        ("docker-daemon:x", UsageError),
        ("dir:x", UsageError),
    ],
)
def test_bad_names(name: str, kind: type[SealpodError]) -> None:
    for opener in (open_source, open_sink):
        with pytest.raises(kind) as caught:
            opener(name)
        assert caught.value.remedy or kind is UsageError


def test_a_digest_is_no_target() -> None:
    with pytest.raises(UsageError):
        open_sink("docker://busybox@sha256:" + "0" * 64)


# Accounts.


def auth(**entries: str) -> bytes:
    encode = lambda text: base64.b64encode(text.encode()).decode()  # noqa: E731
    return json.dumps({"auths": {name: {"auth": encode(text)} for name, text in entries.items()}}).encode()


def test_accounts() -> None:
    find = parse_auth_file(
        auth(
            **{
                "r.io": "host:1",
                "r.io/team": "team:2",
                "r.io/team/app": "app:3\n",
                "https://index.docker.io/v1/": "hub:4:5",
                "https://x.io": "url:6",
            }
        )
    )

    def who(text: str) -> tuple[str, bytes] | None:
        found = find(ImageReference.parse(text))
        return None if found is None else (found.username, found.password.reveal())

    assert who("r.io/team/app:v1") == ("app", b"3")
    assert who("r.io/team/other") == ("team", b"2")
    assert who("r.io/other") == ("host", b"1")
    assert who("busybox") == ("hub", b"4:5")
    assert who("x.io/y") == ("url", b"6")
    assert who("y.io/x") is None


@pytest.mark.parametrize(
    "entry", [{"auth": "***"}, {"auth": "bm9jb2xvbg=="}, {"auth": 5}, "text", {"auth": "OnB3"}]
)
def test_bad_accounts(entry: object) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_auth_file(json.dumps({"auths": {"r.io": entry}}).encode())
    assert caught.value.code == "registry.auth-file"


def test_entries_of_credential_helpers_are_ignored() -> None:
    find = parse_auth_file(b'{"auths":{"r.io":{}},"credsStore":"x"}')
    assert find(ImageReference.parse("r.io/x")) is None
    assert parse_auth_file(b"{}")(ImageReference.parse("r.io/x")) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            LayoutSink(str(tmp_path / "x")).put_blob(Pieces(b"x"))
        except AccessError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

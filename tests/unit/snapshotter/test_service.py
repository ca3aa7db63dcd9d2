# SPDX-License-Identifier: Apache-2.0
"""The snapshotter over its socket, as containerd calls it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sealpod.errors import ConflictError, UsageError
from sealpod.snapshotter.filters import parse
from sealpod.snapshotter.serve import serving
from sealpod.wire.message import Message
from sealpod.wire.snapshotapi import ACTIVE, COMMITTED, MESSAGES, METHODS, SNAPSHOTS, VIEW

REF = "containerd.io/snapshot.ref"
LAYER, UPPER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


class Client:
    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(f"unix:{address}")

    def __call__(self, method: str, **fields: Any) -> Message:
        request, answer = METHODS[method]
        call = self.channel.unary_unary(f"/{SNAPSHOTS}/{method}")
        payload = MESSAGES.new(request, snapshotter="sealpod", **fields).encode()
        return MESSAGES.decode(answer, bytes(call(payload, timeout=10)))

    def refused(self, method: str, **fields: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self(method, **fields)
        return caught.value.code(), caught.value.details()

    def list(self, *filters: str) -> list[str]:
        call = self.channel.unary_stream(f"/{SNAPSHOTS}/List")
        pages = call(MESSAGES.new("ListSnapshotsRequest", filters=list(filters)).encode(), timeout=10)
        return [info.name for page in pages for info in MESSAGES.decode("ListSnapshotsResponse", page).info]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def client(place: Path) -> Iterator[Client]:
    with serving(str(place / "s"), str(place / "root")):
        made = Client(str(place / "s"))
        yield made
        made.channel.close()


def take_layers(client: Client) -> None:
    for name, parent in ((LAYER, ""), (UPPER, LAYER)):
        client.refused("Prepare", key=f"extract-{name}", parent=parent, labels={REF: name, "kept": "yes"})


def test_a_layer_to_be_unpacked_is_there_already(client: Client) -> None:
    code, text = client.refused("Prepare", key="extract-1", parent="", labels={REF: LAYER, "kept": "yes"})
    assert (code, text) == (grpc.StatusCode.ALREADY_EXISTS, f'target snapshot "{LAYER}": already exists')
    info = client("Stat", key=LAYER).info
    assert (info.kind, info.parent, dict(info.labels)) == (COMMITTED, "", {REF: LAYER, "kept": "yes"})


def test_containerd_finds_the_layer_by_its_walk(client: Client) -> None:
    take_layers(client)
    assert client.list(f'labels."{REF}"=={LAYER},parent==""') == [LAYER]
    assert client.list(f'labels."{REF}"=={UPPER},parent=="{LAYER}"') == [UPPER]
    assert client.list(f'labels."{REF}"=={UPPER},parent==""') == []


def test_a_containers_snapshot_is_an_empty_directory_to_bind(client: Client) -> None:
    take_layers(client)
    (mount,) = client("Prepare", key="c1", parent=UPPER).mounts
    assert (mount.type, list(mount.options)) == ("bind", ["rbind", "rw"])
    assert os.listdir(mount.source) == []
    assert client("Mounts", key="c1").mounts[0].source == mount.source
    (view,) = client("View", key="v1", parent=UPPER).mounts
    assert list(view.options) == ["rbind", "ro"]
    assert {client("Stat", key="c1").info.kind, client("Stat", key="v1").info.kind} == {ACTIVE, VIEW}


def test_a_parent_stays_while_it_has_children(client: Client) -> None:
    take_layers(client)
    source = client("Prepare", key="c1", parent=UPPER).mounts[0].source
    code, text = client.refused("Remove", key=UPPER)
    assert (code, text) == (grpc.StatusCode.FAILED_PRECONDITION, "cannot remove snapshot with child")
    for name in ("c1", UPPER, LAYER):
        client("Remove", key=name)
    assert client.list() == []
    assert not os.path.exists(source)


def test_an_active_snapshot_can_be_committed(client: Client) -> None:
    client("Prepare", key="a", labels={"one": "1"})
    client("Commit", name="b", key="a", labels={"two": "2"})
    info = client("Stat", key="b").info
    assert (info.kind, dict(info.labels)) == (COMMITTED, {"one": "1", "two": "2"})
    assert client.refused("Commit", name="c", key="b")[0] == grpc.StatusCode.FAILED_PRECONDITION
    assert client.refused("Stat", key="a")[0] == grpc.StatusCode.NOT_FOUND


def test_labels_change_one_by_one_or_all_at_once(client: Client) -> None:
    client("Prepare", key="a", labels={"one": "1", "two": "2"})
    mask = MESSAGES.new("FieldMask", paths=["labels.one", "labels.three"])
    info = MESSAGES.new("Info", name="a", labels={"one": "x", "two": "ignored", "three": "3"})
    assert dict(client("Update", info=info, update_mask=mask).info.labels) == {
        "one": "x",
        "two": "2",
        "three": "3",
    }
    assert dict(client("Update", info=info).info.labels) == dict(info.labels)
    wrong = MESSAGES.new("FieldMask", paths=["parent"])
    assert client.refused("Update", info=info, update_mask=wrong)[0] == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("method", "fields", "code"),
    [
        ("Stat", {"key": "no"}, grpc.StatusCode.NOT_FOUND),
        ("Mounts", {"key": "no"}, grpc.StatusCode.NOT_FOUND),
        ("Remove", {"key": "no"}, grpc.StatusCode.NOT_FOUND),
        ("Usage", {"key": "no"}, grpc.StatusCode.NOT_FOUND),
        ("Commit", {"key": "no", "name": "x"}, grpc.StatusCode.NOT_FOUND),
        ("Prepare", {"key": "x", "parent": "no"}, grpc.StatusCode.NOT_FOUND),
        ("Prepare", {"key": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ("Prepare", {"key": "x", "labels": {"long": "y" * 5000}}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_what_cannot_be_is_refused(client: Client, method: str, fields: dict[str, Any], code: object) -> None:
    assert client.refused(method, **fields)[0] == code
    assert client.list() == []


def test_a_name_is_used_once(client: Client) -> None:
    client("Prepare", key="a")
    assert client.refused("Prepare", key="a")[0] == grpc.StatusCode.ALREADY_EXISTS
    assert client.refused("View", key="a")[0] == grpc.StatusCode.ALREADY_EXISTS


def test_a_restart_keeps_snapshots_and_clears_directories_without_one(place: Path) -> None:
    address, root = str(place / "s"), str(place / "root")
    with serving(address, root):
        client = Client(address)
        take_layers(client)
        client("Prepare", key="c1", parent=UPPER)
        client.channel.close()
    orphan = place / "root" / "snapshots" / "999" / "fs"
    orphan.mkdir(parents=True)
    with serving(address, root):
        client = Client(address)
        assert client.list() == [LAYER, UPPER, "c1"]
        assert os.path.isdir(client("Mounts", key="c1").mounts[0].source)
        assert not orphan.exists()
        client.channel.close()


def test_the_socket_is_private_and_one_process_has_it(client: Client, place: Path) -> None:
    assert stat.S_IMODE(os.stat(place / "s").st_mode) == 0o600
    with pytest.raises(ConflictError), serving(str(place / "s"), str(place / "other")):
        pass


@pytest.mark.parametrize("text", ["name", 'kind=="x', "size==3", "labels==x", 'labels."a"==', "a b"])
def test_filters_are_read_or_refused(text: str) -> None:
    if text in ("name", 'labels."a"=='):
        parse([text])
    else:
        with pytest.raises(UsageError):
            parse([text])

# SPDX-License-Identifier: Apache-2.0
"""The snapshotter over its socket, as containerd calls it."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from snapshotkit import REF, Client

from sealpod.errors import AccessError, ConflictError, OperationError, SealpodError, UsageError
from sealpod.snapshotter.serve import serving
from sealpod.wire.snapshotapi import ACTIVE, COMMITTED, MESSAGES, SNAPSHOTS, VIEW

LAYER, UPPER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def client(place: Path) -> Iterator[Client]:
    with serving(str(place / "s"), str(place / "root")):
        made = Client(str(place / "s"))
        yield made
        made.close()


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
    assert (mount.type, list(mount.options)[:2]) == ("bind", ["rbind", "rw"])
    assert os.listdir(mount.source) == []
    assert client("Mounts", key="c1").mounts[0].source == mount.source
    (view,) = client("View", key="v1", parent=UPPER).mounts
    assert list(view.options)[:2] == ["rbind", "ro"]
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
    assert (info.kind, dict(info.labels)) == (COMMITTED, {"two": "2"})
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
        ("View", {"key": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ("Commit", {"key": "no", "name": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ("Prepare", {"key": "x" * 1025}, grpc.StatusCode.INVALID_ARGUMENT),
        ("Prepare", {"key": "x", "labels": {REF: "y" * 1025}}, grpc.StatusCode.INVALID_ARGUMENT),
        ("Prepare", {"key": "x", "parent": "no", "labels": {REF: LAYER}}, grpc.StatusCode.NOT_FOUND),
        (
            "Prepare",
            {"key": "x", "labels": {str(number): "y" for number in range(129)}},
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
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
        client.close()
    orphan = place / "root" / "snapshots" / "999" / "fs"
    orphan.mkdir(parents=True)
    with serving(address, root):
        client = Client(address)
        assert client.list() == [LAYER, UPPER, "c1"]
        assert os.path.isdir(client("Mounts", key="c1").mounts[0].source)
        assert not orphan.exists()
        client.close()


def test_the_socket_is_private_and_one_process_has_it(client: Client, place: Path) -> None:
    assert stat.S_IMODE(os.stat(place / "s").st_mode) == 0o600
    with pytest.raises(ConflictError), serving(str(place / "s"), str(place / "other")):
        pass


def test_a_layer_of_two_namespaces_is_kept_once(client: Client) -> None:
    take_layers(client)
    code, text = client.refused("Prepare", key="moby/7/extract-1", parent=LAYER, labels={REF: UPPER})
    assert (code, text) == (grpc.StatusCode.ALREADY_EXISTS, f'target snapshot "{UPPER}": already exists')
    assert client.list() == [LAYER, UPPER]


def test_a_layer_upon_another_parent_is_another_snapshot(client: Client) -> None:
    take_layers(client)
    client.refused("Prepare", key="k8s.io/9/extract-1 x", parent="", labels={REF: UPPER})
    assert client.list(f'labels."{REF}"=={UPPER},parent==""') == ["k8s.io/9/extract-1 x"]
    assert client.list(f'labels."{REF}"=={UPPER},parent=={LAYER}') == [UPPER]


def test_only_committed_snapshots_are_parents(client: Client) -> None:
    client("Prepare", key="a")
    client("View", key="v")
    for parent in ("a", "v"):
        assert client.refused("Prepare", key="x", parent=parent)[0] == grpc.StatusCode.INVALID_ARGUMENT
        refused = client.refused("Prepare", key="x", parent=parent, labels={REF: LAYER})
        assert refused[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_a_committed_snapshot_is_not_mounted(client: Client) -> None:
    take_layers(client)
    assert client.refused("Mounts", key=LAYER)[0] == grpc.StatusCode.FAILED_PRECONDITION


def test_a_commit_does_not_take_anothers_name(client: Client) -> None:
    take_layers(client)
    client("Prepare", key="a")
    assert client.refused("Commit", key="a", name=LAYER)[0] == grpc.StatusCode.ALREADY_EXISTS
    assert client("Stat", key="a").info.kind == ACTIVE


def test_a_label_without_a_value_is_no_label(client: Client) -> None:
    client("Prepare", key="a", labels={"one": "1", "two": ""})
    assert dict(client("Stat", key="a").info.labels) == {"one": "1"}


def test_a_layers_files_are_nowhere(client: Client, place: Path) -> None:
    take_layers(client)
    assert os.listdir(place / "root" / "snapshots") == []
    assert client("Usage", key=UPPER).size == 0


def test_long_lists_come_in_parts(client: Client) -> None:
    for number in range(205):
        client("View", key=f"v{number}")
    assert client.list() == [f"v{number}" for number in range(205)]
    assert client.pages() == [100, 100, 5]


def test_a_list_may_match_any_of_several_filters(client: Client) -> None:
    take_layers(client)
    client("Prepare", key="c1", parent=UPPER)
    assert client.list("kind==active", f"name=={LAYER}") == [LAYER, "c1"]
    with pytest.raises(grpc.RpcError) as caught:
        client.list("size==3")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_no_message_is_refused(client: Client) -> None:
    call = client.channel.unary_unary(f"/{SNAPSHOTS}/Stat")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\x0a\xff", timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_clean_up_removes_what_no_snapshot_has(client: Client, place: Path) -> None:
    (mount,) = client("Prepare", key="a").mounts
    (place / "root" / "snapshots" / "777" / "fs").mkdir(parents=True)
    (place / "root" / "snapshots" / "new").write_bytes(b"")
    client("Cleanup")
    assert os.listdir(place / "root" / "snapshots") == [Path(mount.source).parent.name]


def test_many_prepare_the_same_layer_at_once(client: Client) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(
                lambda number: client.refused("Prepare", key=f"extract-{number}", labels={REF: LAYER})[0],
                range(64),
            )
        )
    assert set(answers) == {grpc.StatusCode.ALREADY_EXISTS}
    assert client.list() == [LAYER]


def test_many_prepare_and_remove_at_once(client: Client, place: Path) -> None:
    take_layers(client)

    def live(number: int) -> None:
        client("Prepare", key=f"c{number}", parent=UPPER)
        client("Mounts", key=f"c{number}")
        client("Cleanup")
        assert os.path.isdir(client("Mounts", key=f"c{number}").mounts[0].source)
        client("Remove", key=f"c{number}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(live, range(64)))
    assert client.list() == [LAYER, UPPER]
    assert os.listdir(place / "root" / "snapshots") == []


# --- root and socket -----------------------------------------------------------------------------------


def refuses(error: type[SealpodError], code: str, address: Path, root: Path) -> None:
    with pytest.raises(error) as caught, serving(str(address), str(root)):
        pass
    assert caught.value.code == code


def test_a_root_others_may_write_to_is_refused(place: Path) -> None:
    root = place / "root"
    root.mkdir()
    root.chmod(0o777)
    refuses(AccessError, "snapshotter.root", place / "s", root)
    (place / "link").symlink_to(place)
    refuses(AccessError, "snapshotter.root", place / "s", place / "link")
    assert not (place / "s").exists()


def test_a_root_overlayfs_cannot_name_is_refused(place: Path) -> None:
    refuses(UsageError, "snapshotter.root", place / "s", place / "a:b")


def test_a_root_has_one_process(client: Client, place: Path) -> None:
    refuses(ConflictError, "snapshotter.in-use", place / "other", place / "root")


def test_a_socket_in_a_directory_of_all_is_refused(place: Path) -> None:
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    refuses(AccessError, "snapshotter.address", place / "open" / "s", place / "root")


def test_a_file_is_not_replaced_by_the_socket(place: Path) -> None:
    (place / "s").write_text("mine")
    refuses(AccessError, "snapshotter.address", place / "s", place / "root")
    assert (place / "s").read_text() == "mine"


def test_a_path_too_long_for_a_socket_is_refused(place: Path) -> None:
    refuses(UsageError, "snapshotter.address", place / ("x" * 120), place / "root")


def test_a_socket_nobody_answers_on_is_replaced(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place / "s"))
    with serving(str(place / "s"), str(place / "root")):
        client = Client(str(place / "s"))
        assert client.list() == []
        client.close()
    assert not (place / "s").exists()


def test_a_database_of_another_release_is_refused(place: Path) -> None:
    with serving(str(place / "s"), str(place / "root")):
        pass
    with contextlib.closing(sqlite3.connect(place / "root" / "metadata.db")) as database:
        database.execute("PRAGMA user_version=99")
    refuses(OperationError, "snapshotter.layout", place / "s", place / "root")
    (place / "root" / "metadata.db").write_bytes(b"no database" * 100)
    refuses(OperationError, "snapshotter.database", place / "s", place / "root")

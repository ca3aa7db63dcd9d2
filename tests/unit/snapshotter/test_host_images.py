# SPDX-License-Identifier: Apache-2.0
"""Images the host unpacks itself: overlay mounts, usage, and what may stand upon what."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from snapshotkit import IMAGE, REF, Client

from sealpod.snapshotter.mounts import MAX_VOLUME, NO_IMAGE, VOLUME, volume
from sealpod.snapshotter.serve import serving
from sealpod.wire.message import Message
from sealpod.wire.snapshotapi import ACTIVE, COMMITTED

HOST, GUEST = "registry.example/host/tool:1", "registry.example/team/app:1"
LOWEST, MIDDLE, TOP = ("sha256:" + digit * 64 for digit in "123")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with serving(str(tmp_path / "s"), str(tmp_path / "root"), ("registry.example/host/*", "exact")):
        made = Client(str(tmp_path / "s"))
        yield made
        made.close()


def unpack(client: Client, name: str, parent: str = "", files: tuple[str, ...] = ()) -> list[Message]:
    """What containerd does with a layer; the mounts it got to unpack into."""
    labels = {REF: name, IMAGE: HOST}
    key = f"k8s.io/1/extract-9 {name}"
    mounts = list(client("Prepare", key=key, parent=parent, labels=labels).mounts)
    for path in files:
        Path(upper(mounts), path).write_bytes(b"x" * 5000)
    client("Commit", name=name, key=key, labels=labels)
    return mounts


def options(mounts: list[Message]) -> dict[str, str]:
    (mount,) = mounts
    return dict(option.partition("=")[::2] for option in mount.options)


def upper(mounts: list[Message]) -> str:
    (mount,) = mounts
    return mount.source if mount.type == "bind" else options(mounts)["upperdir"]


def test_layers_are_unpacked_one_over_the_other(client: Client) -> None:
    lowest = unpack(client, LOWEST)
    assert (lowest[0].type, list(lowest[0].options)) == ("bind", ["rbind", "rw"])
    middle = unpack(client, MIDDLE, LOWEST)
    assert (middle[0].type, middle[0].source) == ("overlay", "overlay")
    assert options(middle)["lowerdir"] == upper(lowest)
    top = unpack(client, TOP, MIDDLE)
    assert options(top)["lowerdir"] == f"{upper(middle)}:{upper(lowest)}"
    assert len({upper(mounts) for mounts in (lowest, middle, top)}) == 3
    assert os.path.isdir(options(top)["workdir"])
    assert Path(options(top)["workdir"]).parent == Path(upper(top)).parent


def test_a_container_gets_an_overlay_and_a_view_what_is_below(client: Client) -> None:
    lowest = unpack(client, LOWEST)
    (view,) = client("View", key="v1", parent=LOWEST).mounts
    assert (view.type, view.source, list(view.options)) == ("bind", upper(lowest), ["rbind", "ro"])
    middle = unpack(client, MIDDLE, LOWEST)
    container = list(client("Prepare", key="c1", parent=MIDDLE).mounts)
    assert options(container)["lowerdir"] == f"{upper(middle)}:{upper(lowest)}"
    view = list(client("View", key="v2", parent=MIDDLE).mounts)
    assert options(view)["lowerdir"] == f"{upper(middle)}:{upper(lowest)}"
    assert not {"upperdir", "workdir"} & set(options(view))
    assert [one.encode() for one in client("Mounts", key="v2").mounts] == [one.encode() for one in view]


@pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")
def test_the_root_directory_belongs_to_whom_the_layers_say(client: Client) -> None:
    os.chown(upper(unpack(client, LOWEST)), 1234, 4321)
    found = os.stat(upper(list(client("Prepare", key="c1", parent=LOWEST).mounts)))
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1234, 4321, 0o755)


def test_usage_is_what_a_layer_adds(client: Client) -> None:
    unpack(client, LOWEST, files=("a", "b"))
    unpack(client, MIDDLE, LOWEST, files=("c",))
    lowest, middle = client("Usage", key=LOWEST), client("Usage", key=MIDDLE)
    assert (lowest.inodes, middle.inodes) == (3, 2)
    assert lowest.size >= 10_000
    assert 5_000 <= middle.size < lowest.size
    source = upper(list(client("Prepare", key="c1", parent=MIDDLE).mounts))
    before = client("Usage", key="c1")
    Path(source, "grown").write_bytes(b"x" * 100_000)
    os.link(Path(source, "grown"), Path(source, "same"))
    after = client("Usage", key="c1")
    assert (before.inodes, after.inodes) == (1, 2)
    assert after.size >= before.size + 100_000


def test_only_images_that_match_are_the_hosts(client: Client) -> None:
    for image in (GUEST, "exactly", "evil/registry.example/host/x", ""):
        labels = {REF: LOWEST, IMAGE: image}
        assert client.refused("Prepare", key="extract-1", labels=labels)[0] == grpc.StatusCode.ALREADY_EXISTS
    client("Prepare", key="extract-1", labels={REF: LOWEST, IMAGE: "exact"})


def test_an_imported_image_is_unpacked_by_its_caller(client: Client) -> None:
    first = list(client("Prepare", key="k8s.io/1/extract-1 x").mounts)
    client("Commit", name="k8s.io/2/x", key="k8s.io/1/extract-1 x")
    second = list(client("Prepare", key="k8s.io/3/extract-2 y", parent="k8s.io/2/x").mounts)
    assert options(second)["lowerdir"] == upper(first)


def test_a_containers_snapshot_goes_with_its_image(client: Client) -> None:
    unpack(client, LOWEST)
    # A guest's image upon a layer the host has: its own layer is nowhere, nor is the container's.
    client.refused("Prepare", key="extract-1", parent=LOWEST, labels={REF: MIDDLE, IMAGE: GUEST})
    assert client("Stat", key=MIDDLE).info.kind == COMMITTED
    (mount,) = client("Prepare", key="c1", parent=MIDDLE).mounts
    assert (mount.type, os.listdir(mount.source)) == ("bind", [])


def test_files_cannot_stand_upon_a_layer_that_has_none(client: Client) -> None:
    client.refused("Prepare", key="extract-1", labels={REF: LOWEST, IMAGE: GUEST})
    for labels in ({REF: MIDDLE, IMAGE: HOST}, {}):
        code, text = client.refused("Prepare", key="extract-2", parent=LOWEST, labels=labels)
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert text.endswith("[snapshotter.shared-layer]")
    assert client.list() == [LOWEST]


def test_the_same_layer_of_a_guest_and_of_the_host_are_two(client: Client) -> None:
    client.refused("Prepare", key="moby/1/extract-1", labels={REF: LOWEST, IMAGE: GUEST})
    labels = {REF: LOWEST, IMAGE: HOST}
    client("Prepare", key="k8s.io/1/extract-2", labels=labels)
    client("Commit", key="k8s.io/1/extract-2", name=f"k8s.io/2/{LOWEST}", labels=labels)
    assert client.list() == [LOWEST, f"k8s.io/2/{LOWEST}"]
    assert client.list("kind==committed", f"name=={LOWEST}") == client.list()


def test_an_aborted_layer_leaves_nothing(client: Client, tmp_path: Path) -> None:
    mounts = client("Prepare", key="extract-1", labels={REF: LOWEST, IMAGE: HOST}).mounts
    Path(upper(list(mounts)), "half").write_bytes(b"x")
    client("Remove", key="extract-1")
    assert os.listdir(tmp_path / "root" / "snapshots") == []
    assert client.list() == []


# --- the option for a shim -----------------------------------------------------------------------------


def decoded(option: str) -> dict[str, object]:
    assert option.startswith(VOLUME)
    found: dict[str, object] = json.loads(base64.b64decode(option.removeprefix(VOLUME), validate=True))
    return found


def test_a_shim_is_told_the_image(client: Client) -> None:
    labels = {IMAGE: GUEST, "containerd.io/snapshot/x": "y"}
    (mount,) = client("Prepare", key="c1", labels=labels).mounts
    assert client("Stat", key="c1").info.kind == ACTIVE
    assert decoded(mount.options[2]) == {
        "volume_type": "image_guest_pull",
        "source": GUEST,
        "image_pull": {"metadata": labels},
    }
    assert decoded(volume({}))["source"] == NO_IMAGE


def test_the_option_never_fills_the_page_mount_has() -> None:
    found = volume({IMAGE: GUEST, "long": "x" * 4000, "short": "y"})
    assert decoded(found)["image_pull"] == {"metadata": {IMAGE: GUEST, "short": "y"}}
    assert volume({IMAGE: "z" * 4000}) == ""
    assert len(volume({str(number): "x" * 100 for number in range(100)})) <= MAX_VOLUME
    assert "," not in found

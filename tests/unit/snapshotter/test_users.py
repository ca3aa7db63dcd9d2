# SPDX-License-Identifier: Apache-2.0
"""Numbers that stand for users' names: given by the snapshotter, turned back by the shim."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshotkit import REF, Client

from sealpod.shim import usernames
from sealpod.shim.usernames import NO_NAMES, Names
from sealpod.snapshotter.serve import serving
from sealpod.snapshotter.users import CONTENT, MAX_NAMES, ImageUsers, chain_id, split_user, write
from sealpod.wire.message import Message
from sealpod.wire.snapshotapi import NAMED
from sealpod.wire.taskapi import MESSAGES

FIRST, SECOND = ("sha256:" + digit * 64 for digit in "12")
# The OCI image specification's rule, worked out by hand.
CHAIN = "sha256:" + sha256(f"{FIRST} {SECOND}".encode()).hexdigest()


def put(content: Path, data: bytes) -> Path:
    """A blob of containerd's content store."""
    path = content / "blobs" / "sha256" / sha256(data).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def config(user: object, *diff_ids: str) -> bytes:
    return json.dumps({"config": {"User": user}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()


def rootfs(directory: str | Path) -> list[Message]:
    return [MESSAGES.new("Mount", type="bind", source=str(directory))]


def process(uid: int, gid: int = 0, *more: int) -> dict[str, Any]:
    return {"user": {"uid": uid, "gid": gid, "additionalGids": list(more)}}


def test_the_chain_is_the_specifications() -> None:
    assert chain_id([]) == ""
    assert chain_id([FIRST]) == FIRST
    assert chain_id([FIRST, SECOND]) == CHAIN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", ("web", "")),
        ("web:staff", ("web", "staff")),
        ("1000:staff", ("", "staff")),
        ("1000:1000", ("", "")),
        ("", ("", "")),
        ("a b", ("", "")),
        ("we\nb:x", ("", "x")),
        ("../x", ("", "")),
        ("root:x:0", ("root", "")),
    ],
)
def test_names_in_a_configuration(text: str, expected: tuple[str, str]) -> None:
    assert split_user(text) == expected


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_name_breaks_a_line(user: str, group: str) -> None:
    for name in split_user(f"{user}:{group}"):
        assert not set(name) & set(":\n\0/ ,")


def test_users_are_found_by_the_chain_of_their_layers(tmp_path: Path) -> None:
    users = ImageUsers(str(tmp_path))
    assert users.of(CHAIN) == ()  # no content store yet
    put(tmp_path, config("web", FIRST, SECOND))
    put(tmp_path, config("db:db", FIRST, SECOND))
    put(tmp_path, config("other", FIRST))
    put(tmp_path, config("1000", FIRST, SECOND))
    put(tmp_path, config("", FIRST, SECOND))
    for data in (
        b"{",
        b"\x1f\x8b layer",
        b"[]",
        b"{}",
        config(5, FIRST, SECOND),
        config("x", "sha256:short"),
    ):
        put(tmp_path, data)
    os.symlink("/etc/passwd", tmp_path / "blobs/sha256" / ("f" * 64))
    (tmp_path / "blobs/sha256/not-a-digest").write_bytes(config("stray", FIRST, SECOND))
    assert users.of(CHAIN) == ("db:db", "web")
    assert users.of(FIRST) == ("other",)
    put(tmp_path, config("late", FIRST, SECOND))
    assert users.of(CHAIN) == ("db:db", "late", "web")


def test_a_blob_is_read_once_and_names_are_bounded(tmp_path: Path) -> None:
    users = ImageUsers(str(tmp_path))
    path = put(tmp_path, config("web", FIRST))
    assert users.of(FIRST) == ("web",)
    path.write_bytes(config("changed", FIRST))
    assert users.of(FIRST) == ("web",)
    for number in range(MAX_NAMES + 5):
        put(tmp_path, config(f"user{number}", FIRST))
    assert len(users.of(FIRST)) == MAX_NAMES


@given(
    st.lists(
        st.from_regex(r"[a-z_][a-z0-9_-]{0,9}(:[a-z][a-z0-9]{0,5}|:[0-9]{1,5})?", fullmatch=True), max_size=9
    )
)
def test_what_the_snapshotter_writes_the_shim_reads(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    place = tmp_path_factory.mktemp("snapshot")
    write(str(place), texts)
    names = usernames.of_rootfs(rootfs(place))
    assert set(names.users.values()) == {split_user(text)[0] for text in texts} - {""}
    assert set(names.groups.values()) == {split_user(text)[1] for text in texts} - {""}
    numbers = [*names.users, *names.groups]
    assert len(set(numbers)) == len(numbers)
    assert all(number in NAMED and number < 1 << 31 for number in numbers)


NAMES = Names({NAMED[0]: "web"}, {NAMED[1]: "staff"})


@pytest.mark.parametrize(
    ("given_", "uid", "gid", "more"),
    [
        (process(NAMED[0], NAMED[0], NAMED[0], 5), "web", "", ["5"]),
        (process(NAMED[0], NAMED[1]), "web", "staff", []),
        (process(NAMED[0], 0), "web", "0", []),
        (process(NAMED[0], 7), "web", "7", []),
        (process(1000, NAMED[1], NAMED[1]), "1000", "staff", []),
        (process(1000, 0), "1000", "", []),
        (process(0, 0), "0", "0", []),
        # The group containerd did not find is not root's.
        (process(1000, 0, 0, 5), "1000", "", ["5"]),
        (process(1000, 7, 7, 0), "1000", "7", ["7", "0"]),
        (process(0, 0, 0, 5), "0", "0", ["0", "5"]),
        # Of another snapshot: a number like any other.
        (process(NAMED[5], NAMED[5]), str(NAMED[5]), str(NAMED[5]), []),
    ],
)
def test_users_as_the_agent_is_told(given_: dict[str, Any], uid: str, gid: str, more: list[str]) -> None:
    found = usernames.user_of(given_, NAMES)
    assert (found.uid, found.gid, list(found.additionalGids)) == (uid, gid, more)


def test_other_files_name_nobody(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text(f"root:x:0:0::/:\nbroken\nweb:x:{NAMED[0]}:\nx:x:y:\n")
    os.mkfifo(etc / "group")
    assert usernames.of_rootfs(rootfs(tmp_path)) == Names({NAMED[0]: "web"}, {})
    (etc / "passwd").unlink()
    os.symlink("/etc/passwd", etc / "passwd")
    assert usernames.of_rootfs(rootfs(tmp_path)) == ({}, {})
    overlay = [MESSAGES.new("Mount", type="overlay", source="overlay")]
    assert usernames.of_rootfs(overlay) == NO_NAMES


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with serving(str(tmp_path / "s"), str(tmp_path / "root"), ("host/*",)):
        made = Client(str(tmp_path / "s"))
        for name, parent in ((FIRST, ""), (CHAIN, FIRST)):
            made.refused("Prepare", key=f"extract-{name}", parent=parent, labels={REF: name})
        yield made
        made.close()


def test_a_containers_snapshot_has_its_images_names(client: Client, tmp_path: Path) -> None:
    content = tmp_path / CONTENT
    put(content, config("web:staff", FIRST, SECOND))
    (mount,) = client("Prepare", key="c1", parent=CHAIN).mounts
    etc = Path(mount.source, "etc")
    assert (etc / "passwd").read_text() == f"web:x:{NAMED[0]}:{NAMED[0]}::/:\n"
    assert (etc / "group").read_text() == f"staff:x:{NAMED[1]}:\n"
    assert usernames.of_rootfs([mount]) == Names({NAMED[0]: "web"}, {NAMED[1]: "staff"})
    (view,) = client("View", key="v1", parent=CHAIN).mounts
    assert Path(view.source, "etc/passwd").exists()
    (plain,) = client("Prepare", key="c2", parent=FIRST).mounts
    assert os.listdir(plain.source) == []
    client("Remove", key="c1")
    assert not etc.exists()

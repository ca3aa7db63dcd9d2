# SPDX-License-Identifier: Apache-2.0
"""Unpacking: nothing leaves the directory, whiteouts become overlay's, metadata is kept."""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagekit import Pieces, make_tar, member, picture

from sealpod.errors import AccessError, DecodeError
from sealpod.image.metadata import UnpackReport
from sealpod.image.rootdir import RootDirectory, split
from sealpod.image.unpack import Limits, unpack

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and device nodes need root")
pytestmark = needs_root

DIR, SYM, LNK = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.fixture
def work() -> Iterator[Path]:
    """``outside/secret`` beside ``root``, on a file system that takes trusted.* attributes."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as path:
        (Path(path) / "root").mkdir()
        (Path(path) / "outside").mkdir()
        (Path(path) / "outside" / "secret").write_bytes(b"untouched")
        yield Path(path)


def run(work: Path, *members: tuple[tarfile.TarInfo, bytes], lowers: tuple[str, ...] = ()) -> UnpackReport:
    return unpack(Pieces(make_tar(members)), str(work / "root"), lowers=lowers)


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


ESCAPES = {
    "parent": [member("../outside/secret", content=b"x")],
    "parent inside": [member("a/../../outside/secret", content=b"x")],
    "hard link to parent": [member("x", LNK, linkname="../outside/secret")],
    "hard link through a link": [
        member("l", SYM, linkname="../outside"),
        member("x", LNK, linkname="l/secret"),
    ],
    "hard link to an absolute path": [member("x", LNK, linkname="{outside}/secret")],
    "whiteout of the parent": [member(".wh...", content=b"")],
    "whiteout of itself": [member("a/.wh..", content=b"")],
    "device in a path": [member("p", tarfile.FIFOTYPE), member("p/x", content=b"x")],
    "link loop": [
        member("a", SYM, linkname="b"),
        member("b", SYM, linkname="a"),
        member("a/x", content=b"x"),
    ],
    "file as a parent": [member("a", content=b"x"), member("a/b", content=b"x")],
    "hard link to a directory": [member("d", DIR), member("x", LNK, linkname="d")],
    "hard link to itself": [member("x", LNK, linkname="x")],
    "hard link to the root": [member("x", LNK, linkname="/")],
    "root that is a file": [member(".", content=b"x")],
    "overlay attribute": [member("d", DIR, pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"})],
    "name too long": [member("x" * 256, content=b"x")],
    "path too long": [member("x/" * 2100 + "x", content=b"x")],
}


@pytest.mark.parametrize("name", ESCAPES)
def test_refused(name: str, work: Path) -> None:
    members = ESCAPES[name]
    for info, _ in members:
        info.linkname = info.linkname.replace("{outside}", str(work / "outside"))
    with pytest.raises(DecodeError):
        run(work, *members)
    assert (work / "outside" / "secret").read_bytes() == b"untouched"
    assert os.listdir(work / "outside") == ["secret"]


CONFINED = {
    "absolute name": ([member("/etc/passwd", content=b"in")], "etc/passwd"),
    "through an absolute link": ([member("l", SYM, linkname="/sub"), member("l/x", content=b"in")], "sub/x"),
    "through a climbing link": (
        [member("l", SYM, linkname="../../../sub"), member("l/x", content=b"in")],
        "sub/x",
    ),
    "through a chain": (
        [member("a", SYM, linkname="b/c"), member("b", SYM, linkname="/d"), member("a/x", content=b"in")],
        "d/c/x",
    ),
    "over a link": ([member("l", SYM, linkname="../outside/secret"), member("l", content=b"in")], "l"),
    "over a linked directory": (
        [member("l", SYM, linkname="../outside"), member("l", DIR), member("l/x", content=b"in")],
        "l/x",
    ),
}


@pytest.mark.parametrize("name", CONFINED)
def test_confined(name: str, work: Path) -> None:
    members, lands = CONFINED[name]
    run(work, *members)
    assert (work / "root" / lands).read_bytes() == b"in"
    assert not (work / "root" / lands).is_symlink()
    assert (work / "outside" / "secret").read_bytes() == b"untouched"
    assert sorted(os.listdir(work)) == ["outside", "root"]


PATHS = st.lists(
    st.sampled_from(["..", ".", "a", "b", "l", "outside", "secret", ""]), min_size=1, max_size=4
).map("/".join)
MOVES = st.tuples(PATHS, st.sampled_from([tarfile.REGTYPE, DIR, SYM, LNK]), PATHS)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(moves=st.lists(MOVES, max_size=6))
def test_no_sequence_of_entries_leaves_the_root(moves: list[tuple[str, bytes, str]], work: Path) -> None:
    with tempfile.TemporaryDirectory(dir=work) as area:
        root = Path(area) / "root"
        root.mkdir()
        (Path(area) / "secret").write_bytes(b"untouched")
        before = picture(area)
        members = [
            member(path or "x", kind, b"x" if kind == tarfile.REGTYPE else b"", linkname=target)
            for path, kind, target in moves
        ]
        with contextlib.suppress(DecodeError):
            unpack(Pieces(make_tar(members)), str(root))
        after = {path: seen for path, seen in picture(area).items() if not path.startswith("root/")}
        assert {path: seen[4:] for path, seen in after.items() if path not in ("root", ".")} == {
            path: seen[4:] for path, seen in before.items() if path not in ("root", ".")
        }
        assert all((root / name).lstat().st_nlink >= 1 for name in os.listdir(root))
        assert (Path(area) / "secret").stat().st_nlink == 1


def test_metadata(work: Path) -> None:
    run(
        work,
        member("d", DIR, mode=0o2750, uid=10, gid=20, mtime=5),
        member("d/su", content=b"x", mode=0o4755, uid=1000, gid=1001, mtime=1.5),
        member("d/link", SYM, linkname="/nowhere", uid=7, gid=8, mtime=9),
        member("d/hard", LNK, linkname="d/su"),
        member("d/attr", content=b"x", pax_headers={"SCHILY.xattr.trusted.t": "v", "mtime": "3.000000007"}),
        member("node", tarfile.BLKTYPE, devmajor=7, devminor=300, mode=0o640),
    )
    seen = picture(str(work / "root"))
    assert seen["d"][:3] == ("0o42750", 10, 20)
    assert seen["d"][4] == 5_000_000_000
    assert seen["d/su"][:3] == ("0o104755", 1000, 1001)
    assert seen["d/hard"][7] == "" or seen["d/su"][7] == ""
    assert (work / "root/d/su").stat().st_ino == (work / "root/d/hard").stat().st_ino
    assert seen["d/link"][1:6] == (7, 8, 0, 9_000_000_000, "/nowhere")
    assert seen["d/attr"][4:7:2] == (3_000_000_007, (("trusted.t", b"v"),))
    assert seen["node"][0] == "0o60640"
    assert seen["node"][3] == os.makedev(7, 300)


def test_whiteouts(work: Path) -> None:
    run(
        work,
        member("d/.wh.gone"),
        member(".wh.top"),
        member("o/.wh..wh..opq"),
        member(".wh..wh.plnk"),
        member("o/new"),
    )
    root = work / "root"
    assert is_whiteout(root / "d/gone")
    assert is_whiteout(root / "top")
    assert is_opaque(root / "o")
    assert sorted(os.listdir(root)) == ["d", "o", "top"]
    assert os.listdir(root / "o") == ["new"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_whiteout_never_hides_its_own_layer(order: int, work: Path) -> None:
    pairs = [[member("d", DIR), member("d/new", content=b"n")], [member(".wh.d")]]
    files = [[member("f", content=b"n")], [member(".wh.f")]]
    run(work, *(entry for group in (pairs[::order], files[::order]) for part in group for entry in part))
    root = work / "root"
    assert is_opaque(root / "d")
    assert (root / "d/new").read_bytes() == b"n"
    assert (root / "f").read_bytes() == b"n"


def test_later_entries_win(work: Path) -> None:
    run(
        work,
        member("f", content=b"one"),
        member("f", content=b"two"),
        member("d", DIR),
        member("d/x", content=b"x"),
        member("d", content=b"now a file"),
        member("m", DIR, mode=0o700),
        member("m/x", content=b"x"),
        member("m", DIR, mode=0o711),
    )
    root = work / "root"
    assert ((root / "f").read_bytes(), (root / "d").read_bytes()) == (b"two", b"now a file")
    assert (root / "m/x").exists()
    assert stat.S_IMODE((root / "m").stat().st_mode) == 0o711


def test_implied_parents_look_as_below(work: Path) -> None:
    for name in ("one", "two", "three"):
        (work / name).mkdir()
    (work / "one/tmp").mkdir()
    (work / "one/tmp").chmod(0o1777)
    (work / "two/tmp").mkdir(mode=0o700)
    (work / "one/home").mkdir()
    os.mknod(work / "one/gone", stat.S_IFCHR, os.makedev(0, 0))
    (work / "two/gone").mkdir(mode=0o700)
    os.mkdir(work / "one/opaque")
    os.setxattr(work / "one/opaque", "trusted.overlay.opaque", b"y")
    os.makedirs(work / "two/opaque/sub", mode=0o700)
    (work / "three/deep").mkdir(mode=0o700)
    names = ("tmp/x", "gone/x", "opaque/sub/x", "deep/x", "nowhere/x")
    lowers = tuple(str(work / name) for name in ("one", "two", "three"))
    run(work, *(member(name) for name in names), lowers=lowers)
    modes = {name: oct(stat.S_IMODE((work / "root" / name).parent.stat().st_mode)) for name in names}
    assert modes == {
        "tmp/x": "0o1777",
        "gone/x": "0o755",
        "opaque/sub/x": "0o755",
        "deep/x": "0o700",
        "nowhere/x": "0o755",
    }


def test_limits(work: Path) -> None:
    members = [member(str(number)) for number in range(4)]
    with pytest.raises(DecodeError, match="more than 3 entries") as caught:
        unpack(Pieces(make_tar(members)), str(work / "root"), limits=Limits(entries=3))
    assert caught.value.code == "image.layer-limit"


def test_a_user_may_not_unpack_owners(work: Path) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.chmod(work, 0o777)
            os.chmod(work / "root", 0o777)
            os.setgid(65534)
            os.setuid(65534)
            run(work, member("f", content=b"x", uid=0))
        except AccessError as error:
            status = 0 if error.code == "image.unpack-permission" else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_no_descriptor_is_left(work: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    run(
        work,
        member("a/b/c", content=b"x"),
        member("a/l", SYM, linkname="/a/b"),
        member("a/l/d", content=b"y"),
    )
    with pytest.raises(DecodeError):
        run(work, member("a/b/e", content=b"x"), member("../x"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_split_and_root_directory(work: Path) -> None:
    assert split(b"/a//./b/") == (b"a", b"b")
    with RootDirectory(str(work / "root")) as root:
        with pytest.raises(FileNotFoundError):
            root.directory((b"missing",))
        (work / "root" / "f").write_bytes(b"")
        with pytest.raises(NotADirectoryError):
            root.directory((b"f",))

# SPDX-License-Identifier: Apache-2.0
"""The tar reader, against the standard library's writer and against damage."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagekit import Pieces, make_tar, member

from sealpod.errors import DecodeError
from sealpod.image import tarheader
from sealpod.image.tarheader import Entry, parse_pax
from sealpod.image.tarstream import TarReader


def read(data: bytes, piece: int = 0) -> list[tuple[Entry, bytes]]:
    reader = TarReader(Pieces(data, piece))
    return [(entry, b"".join(iter(lambda: reader.read(1000), b""))) for entry in reader]


NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=300
).map(lambda text: text.strip("/") or "x")
KINDS = [
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
]


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    kind = draw(st.sampled_from(KINDS))
    content = draw(st.binary(max_size=1500)) if kind == tarfile.REGTYPE else b""
    return member(
        draw(NAMES),
        kind,
        content,
        linkname=draw(NAMES) if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else "",
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, 2**31)),
        gid=draw(st.integers(0, 2**31)),
        mtime=draw(st.integers(0, 2**33 - 1)),
        devmajor=draw(st.integers(0, 4095)) if kind == tarfile.CHRTYPE else 0,
        devminor=draw(st.integers(0, 2**20 - 1)) if kind == tarfile.CHRTYPE else 0,
    )


@given(
    st.lists(members(), max_size=4),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from([0, 1, 511, 4096]),
)
def test_what_tarfile_writes_is_read(
    written: list[tuple[tarfile.TarInfo, bytes]], form: int, piece: int
) -> None:
    found = read(make_tar(written, form), piece)
    assert [content for _, content in found] == [content for _, content in written]
    for (entry, _), (info, _) in zip(found, written, strict=True):
        assert entry.path.rstrip(b"/").decode() == info.name
        assert (entry.type, entry.mode, entry.uid, entry.gid) == (info.type, info.mode, info.uid, info.gid)
        assert entry.mtime_ns == info.mtime * 1_000_000_000
        assert entry.link.decode() == info.linkname
        assert entry.device == ((info.devmajor, info.devminor) if info.type == tarfile.CHRTYPE else (0, 0))


def test_nanoseconds_and_attributes() -> None:
    headers = {"mtime": "1700000000.123456789", "SCHILY.xattr.user.a": "b", "comment": "ignored", "path": ""}
    [(entry, _)] = read(make_tar([member("f", pax_headers=headers)]))
    assert (entry.path, entry.mtime_ns, entry.xattrs) == (b"f", 1_700_000_000_123_456_789, {b"user.a": b"b"})
    [(entry, _)] = read(make_tar([member("f", pax_headers={"mtime": "-1.5"})]))
    assert entry.mtime_ns == -1_500_000_000


def test_ustar_prefix() -> None:
    name = "a" * 90 + "/" + "b" * 90
    [(entry, _)] = read(make_tar([member(name)], tarfile.USTAR_FORMAT))
    assert entry.path.decode() == name


def test_concatenated_archives_and_padding() -> None:
    data = make_tar([member("a", content=b"1")]) + bytes(5120) + make_tar([member("b", content=b"2")])
    assert [(entry.path, content) for entry, content in read(data)] == [(b"a", b"1"), (b"b", b"2")]


def test_old_directories_and_contiguous_files() -> None:
    old = member("dir/", tarfile.AREGTYPE)
    contiguous = member("file", tarfile.CONTTYPE, b"x")
    assert [entry.type for entry, _ in read(make_tar([old, contiguous], tarfile.USTAR_FORMAT))] == [
        b"5",
        b"0",
    ]


def test_a_global_header_is_ignored() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"comment": "x", "path": "evil"}) as archive:
        archive.addfile(*[member("f", content=b"1")[0]], io.BytesIO(b"1"))
    assert [entry.path for entry, _ in read(buffer.getvalue())] == [b"f"]


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "oldgnu", "v7"])
def test_gnu_tar(form: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_bytes(b"content")
    (tmp_path / "d" / "link").symlink_to("file")
    (tmp_path / "d" / "hard").hardlink_to(tmp_path / "d" / "file")
    packed = subprocess.run(
        ["tar", f"--format={form}", "--sort=name", "-C", str(tmp_path), "-c", "d"],
        check=True,
        capture_output=True,
    ).stdout
    found = {entry.path.decode(): (entry.type, entry.link, content) for entry, content in read(packed)}
    assert found == {
        "d/": (b"5", b"", b""),
        "d/file": (b"0", b"", b"content"),
        "d/hard": (b"1", b"d/file", b""),
        "d/link": (b"2", b"file", b""),
    }


def test_sparse_files_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    for form in ("gnu", "pax"):
        command = ["tar", f"--format={form}", "--sparse", "-C", str(tmp_path), "-c", "sparse"]
        packed = subprocess.run(command, check=True, capture_output=True).stdout
        with pytest.raises(DecodeError):
            read(packed)


SMALL = make_tar(
    [member("dir", tarfile.DIRTYPE), member("dir/file", content=b"content", pax_headers={"mtime": "1.5"})]
)


def test_every_truncation_is_refused_or_loses_whole_entries() -> None:
    whole = [(entry.path, content) for entry, content in read(SMALL)]
    for length in range(len(SMALL)):
        try:
            found = [(entry.path, content) for entry, content in read(SMALL[:length])]
        except DecodeError:
            continue
        # A cut between entries cannot be told from an archive without an end; the layer's digest can.
        assert length % tarheader.BLOCK == 0
        assert found == whole[: len(found)]


def test_every_header_bit_is_covered_by_the_checksum() -> None:
    for bit in range(8 * tarheader.BLOCK):
        damaged = bytearray(SMALL)
        damaged[bit // 8] ^= 1 << bit % 8
        if 148 <= bit // 8 < 156 or bit // 8 in range(500, 512):
            continue  # the sum's own field has filler; unused bytes are summed too, but mean nothing
        with pytest.raises(DecodeError):
            read(bytes(damaged))


@given(st.binary(max_size=2048))
def test_garbage(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        read(data)


@given(st.integers(0, len(SMALL) - 1), st.binary(min_size=1, max_size=20))
def test_damage_raises_decode_error_only(position: int, patch: bytes) -> None:
    with contextlib.suppress(DecodeError):
        read(SMALL[:position] + patch + SMALL[position + len(patch) :])


@pytest.mark.parametrize(
    "record",
    [
        b"x",
        b"5 a=b",
        b"6 a=bb\n",
        b"5 ab\n\n",
        b"0 a=\n",
        b"4 =\n",
        b"99 a=b\n",
        b"3 \n",
        b"-6 a=b\n",
        b"1" * 30,
    ],
)
def test_bad_pax_records(record: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_pax(record)


@pytest.mark.parametrize(
    "headers",
    [
        {"size": "-1"},
        {"size": "9" * 30},
        {"uid": "4294967295"},
        {"gid": "x"},
        {"mtime": "1e9"},
        {"mtime": "9" * 18},
        {"path": "a" * 5000},
        {"path": "a\x00b"},
        {"linkpath": "a\x00b"},
    ],
)
def test_values_out_of_range(headers: dict[str, str]) -> None:
    kind = tarfile.SYMTYPE if "linkpath" in headers else tarfile.REGTYPE
    with pytest.raises(DecodeError):
        read(
            make_tar(
                [member("f", kind, pax_headers=headers, linkname="t" if kind == tarfile.SYMTYPE else "")]
            )
        )

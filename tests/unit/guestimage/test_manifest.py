# SPDX-License-Identifier: Apache-2.0
"""guest.json: round trip, damage, and what :func:`locate` makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, NotFoundError, OperationError
from sealpod.guestimage import busybox, cpio, locate, sources
from sealpod.guestimage.manifest import FILE_NAME, Input, Manifest, Output

HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
NAMES = st.text("abc.-_+~é", min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))
MANIFESTS = st.builds(
    Manifest,
    NAMES,
    st.lists(st.builds(Input, st.just("deb"), NAMES, NAMES, HASHES), unique_by=lambda i: i.name).map(
        lambda items: tuple(sorted(items, key=lambda item: item.name))
    ),
    st.dictionaries(NAMES, HASHES),
    st.dictionaries(NAMES, st.builds(Output, NAMES, st.integers(0, 1 << 40), HASHES)),
)


@given(MANIFESTS)
def test_round_trip(manifest: Manifest) -> None:
    again = Manifest.decode(manifest.encode())
    assert again == manifest
    assert again.encode() == manifest.encode()


def test_schema_version_is_said() -> None:
    document = json.loads(Manifest("6.12", (), {}, {}).encode())
    assert document["schemaVersion"] == 1
    document["schemaVersion"] = 2
    with pytest.raises(DecodeError):
        Manifest.decode(json.dumps(document))


@given(st.one_of(st.text(max_size=60), MANIFESTS.map(lambda manifest: manifest.encode()[:-3])))
def test_damage_raises_decode_error_only(text: str) -> None:
    with pytest.raises(DecodeError):
        Manifest.decode(text)


@pytest.mark.parametrize("name", ["../vmlinuz", "/boot/vmlinuz", "..", "", 5])
def test_an_output_cannot_be_elsewhere(name: object) -> None:
    document = json.loads(Manifest("6.12", (), {}, {"kernel": Output("vmlinuz", 0, "")}).encode())
    document["outputs"]["kernel"]["file"] = name
    with pytest.raises(DecodeError):
        Manifest.decode(json.dumps(document))


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A directory that looks like a fresh build of the sealpod under test."""
    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    with (tmp_path / "initrd.img").open("wb") as out:
        cpio.write([cpio.directory("bin"), cpio.file("bin/busybox", b"tool", 0o755)], out)
    outputs = {
        "kernel": Output.of(str(tmp_path / "vmlinuz")),
        "initrd": Output.of(str(tmp_path / "initrd.img")),
    }
    recorded = sources.digests(sources.collect().modules)
    (tmp_path / FILE_NAME).write_text(Manifest("6.12", (), recorded, outputs).encode())
    return tmp_path


def test_locate(built: Path) -> None:
    found = locate(str(built), firmware_path="/f.fd")
    assert (found.kernel, found.initrd) == (str(built / "vmlinuz"), str(built / "initrd.img"))
    assert found.firmware == "/f.fd"
    assert found.manifest.kernel_release == "6.12"


def test_busybox_comes_out_of_the_initrd(built: Path) -> None:
    assert busybox.read_busybox(str(built)) == b"tool"


def test_nothing_built(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        locate(str(tmp_path))
    assert caught.value.code == "guest.missing"
    assert "sealpod guest build" in caught.value.remedy


def test_an_incomplete_image_is_missing(built: Path) -> None:
    (built / "vmlinuz").write_bytes(b"kern")
    with pytest.raises(NotFoundError) as caught:
        locate(str(built), firmware_path="/f.fd")
    assert caught.value.code == "guest.missing"


def test_changed_sources_make_it_stale(built: Path) -> None:
    manifest = Manifest.decode((built / FILE_NAME).read_text())
    recorded = {**manifest.sources, "agent/__init__.py": "0" * 64}
    stale = Manifest(manifest.kernel_release, (), recorded, manifest.outputs)
    (built / FILE_NAME).write_text(stale.encode())
    with pytest.raises(OperationError) as caught:
        locate(str(built), firmware_path="/f.fd")
    assert caught.value.code == "guest.stale"
    assert "agent/__init__.py" in caught.value.message
    assert locate(str(built), firmware_path="/f.fd", allow_stale=True).manifest == stale

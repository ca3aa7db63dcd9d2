# SPDX-License-Identifier: Apache-2.0
"""Firmware by QEMU's descriptors (docs/interop/firmware.json), by path, in the cache."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, NotFoundError
from sealpod.guestimage import firmware
from sealpod.measure.ovmf import FOOTER_GUID, HASH_TABLE_GUID, SECRET_BLOCK_GUID


def image(*guids: bytes) -> bytes:
    """A firmware of 4 KiB whose footer announces these areas."""
    entries = b"".join(struct.pack("<IIH", 0x80F000, 0x400, 26) + guid for guid in guids)
    table = entries + struct.pack("<H", len(entries) + 18) + FOOTER_GUID
    return (table + bytes(32)).rjust(4096, b"\0")


USABLE = image(HASH_TABLE_GUID, SECRET_BLOCK_GUID)


def descriptor(path: Path | str, **changes: Any) -> str:
    document: dict[str, Any] = {
        "description": "UEFI with SEV",
        "interface-types": ["uefi"],
        "mapping": {"device": "memory", "filename": str(path)},
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": ["amd-sev", "amd-sev-es", "verbose-dynamic"],
        "tags": [],
    }
    return json.dumps(document | changes)


def test_a_memory_mapped_one() -> None:
    assert firmware.parse_descriptor(descriptor("/f.fd").encode()) == "/f.fd"


def test_a_stateless_flash() -> None:
    mapping = {"device": "flash", "mode": "stateless", "executable": {"filename": "/s.fd", "format": "raw"}}
    assert firmware.parse_descriptor(descriptor("", mapping=mapping).encode()) == "/s.fd"


@pytest.mark.parametrize(
    "changes",
    [
        {"features": ["acpi-s3"]},
        {"targets": [{"architecture": "aarch64", "machines": ["virt-*"]}]},
        {"mapping": {"device": "flash", "executable": {"filename": "/c.fd"}, "nvram-template": {}}},
        {"mapping": {"device": "kernel", "filename": "/k"}},
    ],
)
def test_what_does_not_fit(changes: dict[str, Any]) -> None:
    assert firmware.parse_descriptor(descriptor("/f.fd", **changes).encode()) is None


@given(st.one_of(st.binary(max_size=64), st.text(alphabet='{}[]":,a', max_size=40).map(str.encode)))
def test_other_bytes_raise_decode_error_only(data: bytes) -> None:
    with pytest.raises(DecodeError):
        firmware.parse_descriptor(data)


@pytest.mark.parametrize("missing", ["features", "targets", "mapping"])
def test_a_missing_member_is_a_decode_error(missing: str) -> None:
    document = json.loads(descriptor("/f.fd"))
    del document[missing]
    with pytest.raises(DecodeError):
        firmware.parse_descriptor(json.dumps(document).encode())


def test_descriptors_come_in_the_order_of_their_names_and_hide_each_other(tmp_path: Path) -> None:
    etc, usr = tmp_path / "etc", tmp_path / "usr"
    etc.mkdir()
    usr.mkdir()
    (usr / "50-b.json").write_text(descriptor("/usr-b"))
    (usr / "60-a.json").write_text(descriptor("/usr-a"))
    (etc / "60-a.json").write_text(descriptor("/etc-a"))
    (usr / "10-empty.json").write_text("")  # an empty file hides one of the same name elsewhere
    (usr / "20-broken.json").write_text("{")
    found = list(firmware.described([str(etc), str(usr), str(tmp_path / "absent")]))
    assert found == ["/usr-b", "/etc-a"]


def test_search_order(tmp_path: Path) -> None:
    for name in ("described.fd", "known.fd"):
        (tmp_path / name).write_bytes(USABLE)
    cache = tmp_path / "cache"
    cached = Path(firmware.cached_path(str(cache)))
    cached.parent.mkdir(parents=True)
    cached.write_bytes(USABLE)
    directory = tmp_path / "firmware"
    directory.mkdir()
    (directory / "50.json").write_text(descriptor(tmp_path / "described.fd"))
    places = ([str(directory)], [str(tmp_path / "known.fd")])
    assert firmware.find(str(cache), *places) == str(tmp_path / "described.fd")
    # An ordinary build has the feature, too, but no place for the hashes: not this one.
    (tmp_path / "described.fd").write_bytes(image(SECRET_BLOCK_GUID))
    assert firmware.find(str(cache), *places) == str(tmp_path / "known.fd")
    (tmp_path / "known.fd").unlink()
    assert firmware.find(str(cache), *places) == str(cached)
    cached.write_bytes(b"")
    with pytest.raises(NotFoundError) as caught:
        firmware.find(str(cache), *places)
    assert caught.value.code == "guest.firmware"
    assert "sealpod guest build" in caught.value.remedy


def test_a_huge_file_is_no_firmware(tmp_path: Path) -> None:
    path = tmp_path / "huge.fd"
    with path.open("wb") as stream:
        stream.truncate(firmware.MAX_FIRMWARE_SIZE)
        stream.seek(0, 2)
        stream.write(USABLE)
    assert not firmware.is_usable(str(path))

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.measure.components import Components
from sealpod.measure.hashes import HashesTable
from sealpod.measure.reading import MAX_JSON_SIZE

hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
cmdlines = st.binary(max_size=40).map(lambda raw: raw.replace(b"\0", b"0").decode("utf-8", "surrogateescape"))
with_kernel = st.builds(
    Components, firmware=hashes, kernel=hashes, initrd=hashes, cmdline=cmdlines, digest=hashes
)
firmware_only = hashes.map(lambda value: Components(value, None, None, None, value))


@given(with_kernel | firmware_only)
def test_json_round_trip(components: Components) -> None:
    assert Components.from_json(components.to_json()) == components
    assert Components.from_json(components.to_json().encode()) == components


def test_the_json_object(images: dict[str, bytes], blobs: dict[str, bytes]) -> None:
    kernel, initrd = blobs["kernel_12345"], blobs["initrd_54321"]
    components = Components.of(images["ovmf_full_64k"], kernel, initrd, "console=ttyS0 loglevel=7")
    assert {name: value for name, value in json.loads(components.to_json()).items() if value is not None} == {
        "schemaVersion": 2,
        "mode": "sev",
        "firmware": "f6bca88827c6b1ca0a2ff64a05f6efd41b9b1552d3aa5789335198929c15a515",
        "kernel": "cd46cd5840576064b8d412c29ff3a800c963ba213e2be18ec49ada4eecd1b7d9",
        "initrd": "9b2f08b489710ee0f0c9d9c5e047e60e74a451f00524ce5c3252f2626abe81ea",
        "cmdline": "console=ttyS0 loglevel=7",
        "cmdlineHash": "321c8eec6a77bad179511397f913a083067ad8cb737bb260aacbfe8df70fc50a",
        "table": HashesTable.of(kernel, initrd, "console=ttyS0 loglevel=7").encode().hex(),
        "digest": "298ccccbb4b1496ff18d1003f8bccf9697da4a5557f91d53484d752716acb0d4",
    }


def test_the_firmware_alone(images: dict[str, bytes]) -> None:
    components = Components.of(images["ovmf_full_64k"], None, None, None)
    assert components.digest == components.firmware
    assert components.table() is None
    record = json.loads(components.to_json())
    assert [record[name] for name in ("kernel", "initrd", "cmdline", "cmdlineHash", "table")] == [None] * 5


GOOD = {
    "schemaVersion": 1,
    "mode": "sev",
    "firmware": "0" * 64,
    "kernel": "1" * 64,
    "initrd": "2" * 64,
    "cmdline": "quiet",
    "digest": "3" * 64,
}


def test_derived_fields_are_not_needed_to_read() -> None:
    assert Components.from_json(json.dumps(GOOD)).cmdline == "quiet"


@pytest.mark.parametrize(
    "change",
    [
        {"schemaVersion": 3},
        {"mode": "snp"},
        {"firmware": None},
        {"firmware": "0" * 63},
        {"digest": "G" * 64},
        {"digest": "A" * 64},
        {"kernel": 1},
        {"kernel": None},
        {"initrd": None},
        {"cmdline": None},
        {"cmdline": ["quiet"]},
        {"cmdline": "a\0b"},
        {"cmdline": "\ud800"},
        {"kernel": None, "initrd": None, "cmdline": None},
    ],
)
def test_what_is_no_record(change: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        Components.from_json(json.dumps(GOOD | change))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "\ufeff{}", "[" * 100000, b"\xff", "9" * 5000])
def test_what_is_no_json_object(text: str | bytes) -> None:
    with pytest.raises(DecodeError):
        Components.from_json(text)


def test_input_is_capped() -> None:
    with pytest.raises(DecodeError):
        Components.from_json(" " * (MAX_JSON_SIZE + 1))


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_only_decode_errors(text: str | bytes) -> None:
    with contextlib.suppress(DecodeError):
        Components.from_json(text)

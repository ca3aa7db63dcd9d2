# SPDX-License-Identifier: Apache-2.0
"""Read records of launch digests back (:mod:`sealpod.measure.components` has their form)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sealpod.errors import DecodeError, UsageError
from sealpod.measure.components import SCHEMA_VERSION, Components
from sealpod.measure.hashes import cmdline_hash
from sealpod.measure.sevlaunch import SEV, SEV_ES, SNP, SNP_SVSM
from sealpod.measure.vmsa import Fpu, Vmm

MAX_JSON_SIZE: Final = 16 << 20
"""Bytes. A guest's record has some kilobytes; one of many sizes, or steps, as many times more."""
MAX_DIGESTS: Final = 4096
"""Of one record; KVM's limit of vCPUs."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SHA384 = re.compile(r"[0-9a-f]{96}", re.ASCII)
_NUMBER = re.compile(r"0x[0-9a-f]{1,16}", re.ASCII)
_DIGEST: Final = {SEV: _SHA256, SEV_ES: _SHA256, SNP: _SHA384, SNP_SVSM: _SHA384}
"""Form of digest and firmware in each mode."""
_MAX_COUNT: Final = 1 << 32
_MORE: Final = "no kernel, yet more than the firmware is measured"

T = TypeVar("T")
Fields = dict[str, object]


def read_all(text: str | bytes) -> tuple[Components, ...]:
    """The records of a document, one per vCPU count.

    :raise DecodeError: not such a record.
    """
    record = parse_object(text)
    version = record.get("schemaVersion")
    if version == 1 and record.get("mode") == SEV:
        return (_old(record),)
    mode = record.get("mode")
    if version != SCHEMA_VERSION or not isinstance(mode, str) or mode not in _DIGEST:
        raise malformed("schemaVersion 1 or 2 and the mode of a guest expected")
    common = _parts(record, mode)
    pairs = _digests(record, mode)
    return tuple(Components(digest=digest, vcpus=count, mode=mode, **common) for count, digest in pairs)


def read_guests(text: str | bytes) -> tuple[Components, ...]:
    """As :func:`read_all`, also of a document whose ``guests`` are records.

    :raise DecodeError: not such a document.
    """
    record = parse_object(text)
    guests = record.get("guests")
    if guests is None:
        return read_all(text)
    if not isinstance(guests, list) or not guests or record.get("schemaVersion") != SCHEMA_VERSION:
        raise malformed("guests is not a list of records")
    if len(guests) > MAX_DIGESTS:
        raise malformed(f"{len(guests)} guests")
    return tuple(found for guest in guests for found in read_all(json.dumps(guest)))


def _old(record: Fields) -> Components:
    firmware, digest = _hash(record, "firmware", _SHA256), _hash(record, "digest", _SHA256)
    if record.get("kernel") is None:
        _no_kernel(record)
        if digest != firmware:
            raise malformed(_MORE)
        return Components(firmware, None, None, None, digest)
    kernel, initrd = _hash(record, "kernel", _SHA256), _hash(record, "initrd", _SHA256)
    return Components(firmware, kernel, initrd, _cmdline(record), digest)


def _parts(record: Fields, mode: str) -> dict[str, Any]:
    """Everything but vCPU count and digest."""
    found: dict[str, Any] = {
        "firmware": _hash(record, "firmware", _DIGEST[mode]),
        "kernel": None,
        "initrd": None,
        "cmdline": None,
        "signature": _optional(record, "vcpuSignature", _number),
        "vmm": _optional(record, "vmm", _one_of({vmm.value for vmm in Vmm})),
        "features": _optional(record, "guestFeatures", _number),
        "fpu": _optional(record, "fpu", _one_of({fpu.value for fpu in Fpu})),
        "policy": _optional(record, "policy", _number),
        "svsm": _optional(record, "svsm", lambda each, name: _hash(each, name, _SHA256)),
        "vars_size": _optional(record, "varsSize", _count),
    }
    if record.get("kernel") is None:
        _no_kernel(record)
        return found
    found |= {name: _hash(record, name, _SHA256) for name in ("kernel", "initrd")}
    if record.get("cmdline") is None:
        return found | {"cmdline_sha256": _hash(record, "cmdlineHash", _SHA256)}
    return found | {"cmdline": _cmdline(record)}


def _digests(record: Fields, mode: str) -> list[tuple[int | None, str]]:
    counts, digests = record.get("vcpus"), record.get("digest")
    if mode == SEV:
        if counts is not None:
            raise malformed("vcpus in mode sev")
        digest = _hash(record, "digest", _SHA256)
        if record.get("kernel") is None and digest != record.get("firmware"):
            raise malformed(_MORE)
        return [(None, digest)]
    if not isinstance(counts, list) and not isinstance(digests, list):
        return [(_count(record, "vcpus"), _hash(record, "digest", _DIGEST[mode]))]
    if not isinstance(counts, list) or not isinstance(digests, list) or len(counts) != len(digests):
        raise malformed("vcpus and digest are not of one length")
    if not 0 < len(counts) <= MAX_DIGESTS:
        raise malformed(f"{len(counts)} digests")
    pairs: list[Fields] = [
        {"vcpus": count, "digest": digest} for count, digest in zip(counts, digests, strict=True)
    ]
    return [(_count(pair, "vcpus"), _hash(pair, "digest", _DIGEST[mode])) for pair in pairs]


def parse_object(text: str | bytes) -> Fields:
    """A JSON object of a size a record can have.

    :raise DecodeError: anything else.
    """
    if len(text) > MAX_JSON_SIZE:
        raise malformed(f"{len(text)} bytes")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise malformed("not JSON") from None
    if not isinstance(record, dict):
        raise malformed("not an object")
    return record


def _optional(record: Fields, name: str, read: Callable[[Fields, str], T]) -> T | None:
    return None if record.get(name) is None else read(record, name)


def _no_kernel(record: Fields) -> None:
    if record.get("initrd") is not None or record.get("cmdline") is not None:
        raise malformed("no kernel, yet initrd or command line")


def _hash(record: Fields, name: str, form: re.Pattern[str]) -> str:
    value = record.get(name)
    if not isinstance(value, str) or form.fullmatch(value) is None:
        raise malformed(f"{name} is not a hash in lower-case hex")
    return value


def _number(record: Fields, name: str) -> int:
    value = record.get(name)
    if not isinstance(value, str) or _NUMBER.fullmatch(value) is None:
        raise malformed(f"{name} is not a number as 0x...")
    return int(value, 16)


def _count(record: Fields, name: str) -> int:
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MAX_COUNT:
        raise malformed(f"{name} is not a count")
    return value


def _one_of(names: set[str]) -> Callable[[Fields, str], str]:
    def read(record: Fields, name: str) -> str:
        value = record.get(name)
        if not isinstance(value, str) or value not in names:
            raise malformed(f"{name} is none of {', '.join(sorted(names))}")
        return value

    return read


def _cmdline(record: Fields) -> str:
    value = record.get("cmdline")
    if not isinstance(value, str):
        raise malformed("cmdline is not text")
    try:
        cmdline_hash(value)
    except UsageError as error:
        raise malformed(error.message) from None
    return value


def malformed(message: str) -> DecodeError:
    """What is wrong with a record."""
    return DecodeError(f"not a measurement record: {message}", code="measure.record")

# SPDX-License-Identifier: Apache-2.0
"""A launch digest as a JSON document: the record of its parts, and every step on the way to it.

Beside the record's fields (:mod:`sealpod.measure.components`)::

    digestBase64       as the digest; a list where that is one
    tableHash          SHA-256 of the 176-byte hashes table, or null
    firmwareTable      what the image says: size, hashTable, tableBase, secretBlock, resetAddress, svsmEntry
    sections           its SEV metadata: gpa, size, type, name; with SEV-SNP also ld, the digest after each
    vmsa               the distinct VMSA pages: firstVcpu and vcpus (how many have it), sha256, sha384
    trace              the SEV-SNP chain: step, and ld after it

:func:`metadata` reads ``firmwareTable`` and ``sections`` back, which take the place of a firmware image of
known SEV-SNP hash.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

from sealpod.measure.components import SCHEMA_VERSION, Components
from sealpod.measure.gctx import LD_SIZE
from sealpod.measure.ovmf import Area, Ovmf, Section
from sealpod.measure.reading import Fields, malformed, parse_object
from sealpod.measure.sevlaunch import Launch
from sealpod.measure.snp import SECTION_NAMES, Step

OVMF_HASH: Final = "snp:ovmf-hash"
_MAX_ADDRESS: Final = 1 << 32
_MAX_SECTIONS: Final = 4096


def document(launch: Launch, ovmf: Ovmf, components: Sequence[Components]) -> Fields:
    """The document of a launch; ``components`` has a record for each of its digests."""
    record = components[0].record()
    digests = [each.digest for each in components]
    if len(components) > 1:
        record |= {"vcpus": [each.vcpus for each in components], "digest": digests}
    encoded = [_base64(bytes.fromhex(digest)) for digest in digests]
    return {
        **record,
        "digestBase64": encoded if len(encoded) > 1 else encoded[0],
        "tableHash": None if launch.hashes is None else _sha256(launch.hashes.encode()),
        **_firmware(ovmf, launch.steps),
        "vmsa": _pages(launch.pages),
        "trace": [_trace(step) for step in launch.steps],
    }


def ovmf_hash_document(ovmf: Ovmf, digest: bytes) -> Fields:
    """The document of mode snp:ovmf-hash: all SEV-SNP needs of a firmware image."""
    return {
        "schemaVersion": SCHEMA_VERSION,
        "mode": OVMF_HASH,
        "firmware": digest.hex(),
        "digest": digest.hex(),
        "digestBase64": _base64(digest),
        **_firmware(ovmf, ()),
    }


def metadata(text: str | bytes) -> tuple[Ovmf, bytes | None]:
    """A firmware's metadata and, from a document of SEV-SNP, the hash that stands for its pages.

    :raise DecodeError: not a document of this module.
    """
    record = parse_object(text)
    if record.get("schemaVersion") != SCHEMA_VERSION:
        raise malformed(f"schemaVersion {SCHEMA_VERSION} expected")
    table, sections = record.get("firmwareTable"), record.get("sections")
    if not isinstance(table, dict) or not isinstance(sections, list) or len(sections) > _MAX_SECTIONS:
        raise malformed("no firmwareTable and sections")
    ovmf = Ovmf(
        size=_address(table, "size"),
        hash_table=_area(table, "hashTable"),
        secret_block=_area(table, "secretBlock"),
        reset_address=_maybe(table, "resetAddress"),
        sections=tuple(_section(each) for each in sections),
        table_base=_maybe(table, "tableBase"),
        svsm_entry=_maybe(table, "svsmEntry"),
    )
    return ovmf, _snp_hash(record)


def _snp_hash(record: Fields) -> bytes | None:
    value = record.get("firmware")
    if not isinstance(value, str) or len(value) != 2 * LD_SIZE:
        return None
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise malformed("firmware is not a hash in hex") from None


def _firmware(ovmf: Ovmf, steps: Sequence[Step]) -> Fields:
    after = {id(step.section): step.ld.hex() for step in steps if step.section is not None}
    table = {
        "size": ovmf.size,
        "hashTable": _shown(ovmf.hash_table),
        "tableBase": _hex(ovmf.table_base),
        "secretBlock": _shown(ovmf.secret_block),
        "resetAddress": _hex(ovmf.reset_address),
        "svsmEntry": _hex(ovmf.svsm_entry),
    }
    sections = [
        {**_named(each), **({"ld": after[id(each)]} if id(each) in after else {})} for each in ovmf.sections
    ]
    return {"firmwareTable": table, "sections": sections}


def _named(section: Section) -> Fields:
    return {
        "gpa": hex(section.gpa),
        "size": hex(section.size),
        "type": section.kind,
        "name": SECTION_NAMES.get(section.kind, "unknown"),
    }


def _trace(step: Step) -> Fields:
    details: Fields = {}
    if step.section is not None:
        details = _named(step.section)
    if step.vcpu is not None:
        details = {"vcpu": step.vcpu}
    return {"step": step.name, **details, "ld": step.ld.hex()}


def _pages(pages: Sequence[bytes]) -> list[Fields]:
    found: list[Fields] = []
    for page, group in groupby(enumerate(pages), key=itemgetter(1)):
        vcpus = [vcpu for vcpu, _ in group]
        hashes = {"sha256": _sha256(page), "sha384": hashlib.sha384(page).hexdigest()}
        found.append({"firstVcpu": vcpus[0], "vcpus": len(vcpus), **hashes})
    return found


def _shown(area: Area | None) -> Fields | None:
    return None if area is None else {"base": hex(area.base), "size": hex(area.size)}


def _hex(value: int | None) -> str | None:
    return None if value is None else hex(value)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _section(value: object) -> Section:
    if not isinstance(value, dict):
        raise malformed("a section is not an object")
    return Section(_address(value, "gpa"), _address(value, "size"), _address(value, "type"))


def _area(table: Fields, name: str) -> Area | None:
    value = table.get(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise malformed(f"{name} is not an area")
    return Area(_address(value, "base"), _address(value, "size"))


def _maybe(table: Fields, name: str) -> int | None:
    return None if table.get(name) is None else _address(table, name)


def _address(table: Fields, name: str) -> int:
    value = table.get(name)
    try:
        number = int(value, 16) if isinstance(value, str) and len(value) <= 10 else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < _MAX_ADDRESS:
        raise malformed(f"{name} is not a 32-bit number")
    return number

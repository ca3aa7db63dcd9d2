# SPDX-License-Identifier: Apache-2.0
"""Every decoder of what a host, a guest, a file or a service sends about SEV and firmware.

Importing this makes RSA keys, which takes seconds: do it late.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from typing import Final

from fuzzkit import Target
from ovmfkit import FULL, NO_FOOTER, NO_HASH, OLD_STYLE, build_image
from sevkit import new_hierarchy
from snpkit import new_maker

from sealpod.errors import DecodeError, FirmwareError, SealpodError, VerificationError
from sealpod.measure.idblock import IdBlock
from sealpod.measure.ovmf import Ovmf
from sealpod.secret import SecretBytes
from sealpod.sev import vmsafields
from sealpod.sev.authority import Authority
from sealpod.sev.ca import CaCertificate
from sealpod.sev.cert import SIZE, Certificate
from sealpod.sev.certfile import decode_certificates
from sealpod.sev.chain import Chain, PlatformChain, decode_pdh, failed_links, verify_chain
from sealpod.sev.firmwarerule import verify_as_firmware
from sealpod.sev.measurement import Measurement
from sealpod.sev.owner import decode_owner, encode_key
from sealpod.sev.packet import HEADER_SIZE, pack, unpack
from sealpod.sev.policy import Policy
from sealpod.sev.report import Report, make_report, verify_report
from sealpod.sev.session import Session, open_session
from sealpod.sev.snp.report import SigningKey, SnpReport
from sealpod.sev.snp.tcb import TcbLayout
from sealpod.sev.snp.vek import EndorsementKey
from sealpod.sev.snp.x509 import decode_x509
from sealpod.sev.text import describe
from sealpod.wire import secrettable
from sealpod.wire.guid import parse_guid

_SIGNED: Final = (DecodeError, VerificationError)
_FIRMWARE: Final = (DecodeError, FirmwareError)

_PLATFORM = new_hierarchy(2048)
_CHAIN, _KEYS = _PLATFORM.chain, _PLATFORM.ec_keys
_LATER = new_hierarchy(4096).chain
_DIGEST = hashlib.sha256(b"sev-test-vector firmware").digest()
_SESSION = Session.create(_CHAIN.pdh, Policy(3), rng=os.urandom, godh_key=_KEYS["godh"])
_MEASURE = bytes(range(32))
_PACKET = pack(_SESSION.keys, bytes(64), _MEASURE, iv=bytes(16))
_SNP = new_maker()
_SNP_CHAIN, _VLEK_CHAIN, _TURIN_CHAIN = _SNP.chain(), _SNP.chain(vlek=True), _SNP.chain("Turin")


def _same(data: bytes, encoded: bytes) -> None:
    assert data == encoded, "what was decoded does not encode to what came"


def _certificate(data: bytes) -> None:
    found = Certificate.decode(data)
    _same(data, found.encode())
    describe(found)
    found.require_canonical()
    verify_as_firmware(data, data)


def _ca_certificate(data: bytes) -> None:
    found, size = CaCertificate.decode(data)
    _same(data[:size], found.encode()[:size])
    found.public_key()
    describe(found)


def _authority(data: bytes) -> None:
    found = Authority.decode(data)
    assert Authority.decode(found.encode()) == found
    assert found.generation is None
    found.verify()


def _chain(data: bytes) -> None:
    found = Chain.decode(data)
    _same(data[: len(found.encode())], found.encode())
    failed_links(found)
    verify_chain(found, _PLATFORM.trusted)


def _platform_chain(data: bytes) -> None:
    _same(data[: 4 * SIZE], PlatformChain.decode(data).encode())
    _same(data[:SIZE], decode_pdh(data).encode())


def _certificate_file(data: bytes) -> None:
    found = decode_certificates(data)
    _same(data, b"".join(one.encode() for one in found))
    for one in found:
        describe(one)


def _session(data: bytes) -> None:
    godh = Certificate.decode(data[:SIZE])
    open_session(_KEYS["pdh"], godh, data[SIZE:], _SESSION.policy)


def _report(data: bytes) -> None:
    found = Report.decode(data)
    _same(data, found.encode())
    verify_report(found, _CHAIN.pek)


def _snp_report(data: bytes) -> None:
    found = SnpReport.decode(data)
    _same(data, found.encode())
    assert found.policy.describe()
    assert found.layout in (None, *TcbLayout)
    assert found.signing_key in (None, *SigningKey)
    assert repr(found)
    for layout in TcbLayout:
        assert set(found.tcb(layout)) == {"current", "reported", "committed", "launch"}


def _x509(data: bytes) -> None:
    for found in decode_x509(data):
        assert found.sha256
        if not found.is_authority:
            assert EndorsementKey.of(found).tcb.levels()


def _secret_table(data: bytes) -> None:
    found = secrettable.decode(data)
    again = secrettable.decode(secrettable.encode(list(found.items())))
    assert again == found


def _owner_key(data: bytes) -> None:
    decode_owner(_CHAIN.oca, SecretBytes(data))


def _packet(data: bytes) -> None:
    unpack(_SESSION.keys, data[:HEADER_SIZE], data[HEADER_SIZE:], _MEASURE)


def _measurement(data: bytes) -> None:
    _same(data, Measurement.decode(data).encode())


def _vmsa(data: bytes) -> None:
    text = vmsafields.to_json(data)
    fields = vmsafields.decode(vmsafields.from_json(text))
    assert fields == vmsafields.decode(data)


def _id_block(data: bytes) -> None:
    _same(data, IdBlock.decode(data).encode())


def _ovmf(data: bytes) -> None:
    found = Ovmf.parse(data)
    # Every section is 12 bytes of the image.
    assert 12 * len(found.sections) <= len(data)


def _pem(*certificates: bytes) -> bytes:
    return b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(one) + b"-----END CERTIFICATE-----\n"
        for one in certificates
    )


def _tables() -> list[bytes]:
    guids = [parse_guid(f"e6f5a162-d67f-4750-a67c-5d065f2a99{n:02x}") for n in range(3)]
    return [
        secrettable.encode([(guid, b"k" * (40 * n)) for n, guid in enumerate(guids[:count])])
        for count in (0, 1, 3)
    ]


def _target(
    name: str,
    decode: Callable[[bytes], object],
    *originals: bytes,
    may_raise: tuple[type[SealpodError], ...] = (DecodeError,),
) -> Target:
    return Target(name, decode, originals, may_raise)


_SNP_CERTIFICATES = [
    _SNP_CHAIN.ark.encoded,
    *(chain.vek.certificate.encoded for chain in (_SNP_CHAIN, _VLEK_CHAIN, _TURIN_CHAIN)),
]
_VMSA = vmsafields.encode({"rip": 0xFFF0, "rdx": 0x800F12, "cr0": 0x10})

_ALL: Final = (
    _target("certificate", _certificate, _CHAIN.oca.encode(), may_raise=(*_SIGNED, FirmwareError)),
    _target("ca-certificate", _ca_certificate, _CHAIN.ark.encode(), _LATER.ask.encode()),
    _target("authority", _authority, _CHAIN.authority.encode(), _LATER.authority.encode(), may_raise=_SIGNED),
    _target("chain", _chain, _CHAIN.encode(), may_raise=_SIGNED),
    _target("platform-chain", _platform_chain, _CHAIN.encode(), _CHAIN.platform.encode()),
    _target("certificate-file", _certificate_file, _LATER.encode(), _CHAIN.ark.encode(), _CHAIN.pdh.encode()),
    _target("session", _session, _SESSION.godh.encode() + _SESSION.blob, may_raise=_FIRMWARE),
    _target("measurement", _measurement, bytes(range(48))),
    _target(
        "report",
        _report,
        make_report(bytes(16), _DIGEST, Policy(3), _KEYS["pek"]).encode(),
        may_raise=_SIGNED,
    ),
    _target("snp-report", _snp_report, *(_SNP.report(version) for version in (2, 3, 5))),
    _target("x509", _x509, *_SNP_CERTIFICATES, _pem(*_SNP_CERTIFICATES[:2])),
    _target("secret-table", _secret_table, *_tables()),
    _target("packet", _packet, _PACKET.header + _PACKET.data, may_raise=_FIRMWARE),
    _target("owner-key", _owner_key, encode_key(_KEYS["oca"]).reveal(), may_raise=_SIGNED),
    _target("ovmf", _ovmf, *(build_image(one) for one in (FULL, NO_HASH, OLD_STYLE, NO_FOOTER))),
    _target("vmsa", _vmsa, _VMSA),
    _target("id-block", _id_block, IdBlock(launch_digest=bytes(48)).encode()),
)

TARGETS: Final = {target.name: target for target in _ALL}

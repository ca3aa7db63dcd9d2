# SPDX-License-Identifier: Apache-2.0
"""Where ``sealpod sev`` gets certificates from: the platform, AMD's key server, files and directories."""

from __future__ import annotations

import argparse
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sealpod.cli.sev_common import (
    ASKING_IDENTIFIER,
    ASKING_STATUS,
    EXPORTING,
    failure,
    note,
    on_platform,
    read_file,
    step,
)
from sealpod.errors import DecodeError, NotFoundError

if TYPE_CHECKING:
    from sealpod.platform.kds import KeyDistributionService
    from sealpod.platform.port import Platform, PlatformCertificates, PlatformStatus, VendorCertificates
    from sealpod.sev.authority import Authority
    from sealpod.sev.cert import Certificate
    from sealpod.sev.chainfile import PlatformChain

EXPORT_FILE: Final = "cert_chain.cert"
"""The chain buffer of PDH_CERT_EXPORT, by sev-tool's name."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What a platform says of itself."""

    kind: str
    certificates: PlatformCertificates
    vendor: VendorCertificates | None
    identifier: bytes
    status: PlatformStatus


def add_offline(parser: argparse.ArgumentParser) -> None:
    """``--offline``: whether AMD's key server may be asked."""
    parser.add_argument(
        "--offline",
        action="store_true",
        help="ask AMD's key server for nothing; take what was fetched before, or fail",
    )


def add_ca(parser: argparse.ArgumentParser, text: str) -> None:
    """``--ca``: an authority in a file or directory."""
    parser.add_argument("--ca", metavar="FILE|DIR", help=text)


def export_platform(args: argparse.Namespace) -> Exported:
    """Ask the platform of the options."""

    async def collect(platform: Platform) -> Exported:
        return Exported(
            platform.kind,
            await step(EXPORTING, platform.pdh_cert_export()),
            await platform.vendor_certificates(),
            await step(ASKING_IDENTIFIER, platform.identifier()),
            await step(ASKING_STATUS, platform.status()),
        )

    return on_platform(args, collect)[1]


def signed_chain(args: argparse.Namespace, exported: Exported) -> PlatformChain:
    """PDH, PEK, OCA and the CEK as its vendor signed it, which AMD's key server is asked for."""
    from sealpod.sev.cert import Certificate
    from sealpod.sev.chainfile import PlatformChain

    found = exported.certificates
    chain = PlatformChain.decode(found.pdh + found.pek + found.oca + found.cek)
    if exported.vendor is not None:
        return chain.with_cek(Certificate.decode(exported.vendor.cek))
    return _service(args).signed_chain(exported.identifier, chain)


def vendor_authority(args: argparse.Namespace, exported: Exported, cek: Certificate) -> Authority:
    """The ASK and ARK of the platform's vendor: ``--ca``, the model's own, or AMD's."""
    if args.ca is not None:
        return chosen_authority(args.ca, cek)
    if exported.vendor is None:
        return amd_authority(args, cek)
    from sealpod.sev.authority import Authority

    return Authority.decode(exported.vendor.ask + exported.vendor.ark)


def amd_authority(args: argparse.Namespace, cek: Certificate) -> Authority:
    """The pinned ASK and ARK of AMD that signed this CEK, from AMD or from what was fetched before.

    :raise NotFoundError: none of AMD's did. Also as the service.
    """
    try:
        return _service(args).authority_of(cek)
    except NotFoundError as error:
        raise _no_amd_generation(args, error) from error


def chosen_authority(path: str, cek: Certificate) -> Authority:
    """Of the authorities in a file or directory the one that signed the CEK; of a single one, that one.

    :raise NotFoundError: there are several, and none of them did. Also as :func:`load_authorities`.
    """
    from sealpod.sev.authority import detect

    authorities = load_authorities(path)
    if len(authorities) == 1:
        return authorities[0]
    try:
        return detect(cek, authorities)
    except NotFoundError as error:
        raise _no_generation(error) from error


def read_chain(path: str) -> bytes:
    """The bytes of a chain's file; of a directory as sev-tool or ``cert split`` writes it, put together.

    sev-tool has PEK, OCA and the unsigned CEK in one file; a ``cek.cert`` beside it is the signed one.
    """
    from sealpod.sev.authority import ARK_FILE, ASK_FILE, PAIR_FILE
    from sealpod.sev.cert import SIZE

    if not os.path.isdir(path):
        return read_file(path, what="SEV certificate chain file")

    def there(name: str) -> bool:
        return os.path.exists(os.path.join(path, name))

    def read(name: str) -> bytes:
        return read_file(os.path.join(path, name))

    parts = [read("pdh.cert")]
    if there("pek.cert") or not there(EXPORT_FILE):
        parts += [read("pek.cert"), read("oca.cert"), read("cek.cert")]
    else:
        exported = read(EXPORT_FILE)
        cek = read("cek.cert") if there("cek.cert") else exported[2 * SIZE : 3 * SIZE]
        parts += [exported[: 2 * SIZE], cek]
    if there(ASK_FILE) and there(ARK_FILE):
        parts += [read(ASK_FILE), read(ARK_FILE)]
    elif there(PAIR_FILE):
        parts.append(read(PAIR_FILE))
    return b"".join(parts)


def load_authorities(path: str) -> tuple[Authority, ...]:
    """ASK and ARK from AMD's file, a full chain's file, or a directory.

    :raise DecodeError: no such certificates. :raise SealpodError: the file cannot be read.
    """
    from sealpod.sev.authority import ARK_FILE, ASK_FILE, PAIR_FILE, Authority, Generation, decode_directory

    if os.path.isdir(path):
        names = (PAIR_FILE, ASK_FILE, ARK_FILE, *(one.pair_file for one in Generation))
        there = [name for name in names if os.path.exists(os.path.join(path, name))]
        return decode_directory({name: read_file(os.path.join(path, name)) for name in there})
    from sealpod.sev.chainfile import Chain

    data = read_file(path, what="CA certificate chain file")
    with contextlib.suppress(DecodeError):
        return (Chain.decode(data).authority,)
    try:
        return (Authority.decode(data),)
    except DecodeError as error:
        raise failure("unable to decode chain", error) from error


def root_name(ark_sha256: str, otherwise: str) -> str:
    """AMD's name for a root, or another one."""
    from sealpod.sev.roots import AMD_ARKS

    return AMD_ARKS.get(ark_sha256, otherwise)


def _service(args: argparse.Namespace) -> KeyDistributionService:
    from sealpod.platform.kds import KeyDistributionService

    return KeyDistributionService(offline=args.offline, progress=note)


def _no_generation(error: NotFoundError) -> NotFoundError:
    text = "failed to deduce platform generation: could not find a matching builtin certificate"
    return NotFoundError(f"{text}: {error.message}", code=error.code, remedy=error.remedy)


def _no_amd_generation(args: argparse.Namespace, error: NotFoundError) -> NotFoundError:
    found = _no_generation(error)
    cache = _service(args).cache
    if error.code != "ca.no-issuer" or cache is None:
        return found
    # A kept CEK is known by its key; whether AMD's signature in it is whole shows only here.
    remedy = f"{error.remedy}; a CEK that was fetched from AMD may be damaged: remove {cache}, and try again"
    return NotFoundError(found.message, code=found.code, remedy=remedy)

# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev generate``, ``provision``, ``reset`` and ``rotate``: whose a platform is, and who it is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from sealpod.cli.sev_common import (
    ASKING_STATUS,
    EXPORTING,
    add_output,
    add_platform,
    failure,
    note,
    on_platform,
    print_result,
    read_file,
    step,
)
from sealpod.errors import DecodeError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sealpod.platform.port import Platform, PlatformStatus
    from sealpod.sev.owner import Owner

GENERATE_EPILOG: Final = """\
CERT is public. KEY (mode 0600) is what makes its holder the owner of every platform provisioned with CERT:
keep it off the platform. An existing KEY is not replaced without --force.
"""
PROVISION_EPILOG: Final = """\
The platform's PEK is signed with the owner's key and given back to it; from then on the platform counts as
owned by the holder of that key. It gets a new PDH: sessions made for the old one are lost. A platform that
is owned already refuses; `sealpod sev reset` ends an ownership.
"""
RESET_LOSES: Final = (
    "the platform's OCA, PEK and PDH and its ownership are gone; certificates that were exported and "
    "sessions made for the old PDH are worthless"
)
RESET_EPILOG: Final = """\
Loses, for good: the owner's or the platform's own OCA, the PEK, the PDH and the ownership. Certificates that
were exported and sessions that were made for them are worthless. The CEK stays: it is the chip's.

It is refused while guests run, those of other processes included.
"""
_NOT_TAKEN: Final = {
    "sev.already-owned": (
        "the platform has an owner already; `sealpod sev reset` ends that, and loses its identity"
    ),
    "sev.invalid-platform-state": "end the guests on the platform first",
}
"""What to do about a platform that does not take an owner."""
ROTATE_LOSES: Final = "sessions made for the old PDH are worthless; export the chain again"
ROTATE_EPILOG: Final = """\
Loses the old PDH: certificates that were exported and sessions that were made for it are worthless. Running
guests, PEK, OCA and ownership stay.
"""


def declare_generate(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``generate``."""
    parser.epilog = GENERATE_EPILOG
    parser.add_argument("cert", metavar="CERT", help="file to write the OCA's certificate to")
    parser.add_argument("key", metavar="KEY", help="file to write the OCA's private key to")
    parser.add_argument("--force", action="store_true", help="replace an existing key")
    add_output(parser, _generate)


def declare_provision(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``provision``."""
    parser.epilog = PROVISION_EPILOG
    parser.add_argument("cert", metavar="CERT", help="the owner's OCA certificate")
    parser.add_argument("key", metavar="KEY", help="the owner's OCA private key, DER or PEM")
    add_platform(parser)
    add_output(parser, _provision)


def declare_reset(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``reset``."""
    parser.epilog = RESET_EPILOG
    add_platform(parser)
    add_output(parser, _reset)


def declare_rotate(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rotate``."""
    parser.epilog = ROTATE_EPILOG
    add_platform(parser)
    add_output(parser, _rotate)


def _generate(args: argparse.Namespace) -> int:
    from cryptography.hazmat.primitives.asymmetric import ec

    from sealpod.cli.outputs import OutputFile, write_outputs
    from sealpod.sev.owner import encode_key, make_owner
    from sealpod.sev.text import describe

    owner = make_owner(ec.generate_private_key(ec.SECP384R1()))
    files = [OutputFile(args.cert, owner.oca.encode()), OutputFile(args.key, encode_key(owner.key))]
    write_outputs(files, replace_keys=args.force)
    text = describe(owner.oca)
    print_result(args, text, {"oca": text, "certificate": args.cert, "key": args.key})
    return 0


def _provision(args: argparse.Namespace) -> int:
    from sealpod.sev.cert import Certificate
    from sealpod.sev.text import describe

    owner = _read_owner(args.cert, args.key)

    async def take(platform: Platform) -> None:
        csr = await step("cross signing request failed", platform.pek_csr())
        pek = owner.sign_pek(Certificate.decode(csr))
        importing = platform.pek_cert_import(pek.encode(), owner.oca.encode())
        await step("failed to import the newly-signed PEK", importing, remedies=_NOT_TAKEN)

    kind, (_, pdh) = _change(args, take)
    oca = describe(owner.oca)
    record = {"platform": kind, "owned": True, "oca": oca, "pdh": pdh}
    print_result(args, f"owner: {oca}\nnew PDH: {pdh}", record)
    note(f"the platform has an owner and a new PDH: {ROTATE_LOSES}")
    return 0


def _reset(args: argparse.Namespace) -> int:
    return _renew(args, "error resetting platform", lambda platform: platform.reset(), RESET_LOSES)


def _rotate(args: argparse.Namespace) -> int:
    return _renew(args, "unable to rotate PDH", lambda platform: platform.pdh_gen(), ROTATE_LOSES)


def _renew(
    args: argparse.Namespace,
    context: str,
    command: Callable[[Platform], Coroutine[object, object, None]],
    loses: str,
) -> int:
    kind, (status, pdh) = _change(args, lambda platform: step(context, command(platform)))
    note(loses)
    print_result(args, f"new PDH: {pdh}", {"platform": kind, "owned": status.owned, "pdh": pdh})
    return 0


def _change(
    args: argparse.Namespace, work: Callable[[Platform], Coroutine[object, object, None]]
) -> tuple[str, tuple[PlatformStatus, str]]:
    """Do it, then ask the platform what it is now: the PDH in one line."""
    from sealpod.sev.cert import Certificate
    from sealpod.sev.text import describe

    async def change(platform: Platform) -> tuple[PlatformStatus, str]:
        await work(platform)
        certificates = await step(EXPORTING, platform.pdh_cert_export())
        return await step(ASKING_STATUS, platform.status()), describe(Certificate.decode(certificates.pdh))

    return on_platform(args, change)


def _read_owner(cert_path: str, key_path: str) -> Owner:
    from sealpod.secret import SecretBytes
    from sealpod.sev.owner import decode_oca, decode_owner

    cert_file, key_file = read_file(cert_path), SecretBytes(read_file(key_path))
    try:
        oca = decode_oca(cert_file)
    except (DecodeError, VerificationError) as error:
        raise failure("failed to decode OCA", error) from error
    try:
        return decode_owner(oca, key_file)
    except (DecodeError, VerificationError) as error:
        raise failure("failed to decode OCA private key", error) from error

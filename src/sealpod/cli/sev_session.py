# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev session``: an owner's launch session for one platform, in sevctl's four files."""

from __future__ import annotations

import argparse
import base64
import os
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.sev_common import add_output, note, print_result, read_file
from sealpod.errors import DecodeError, UsageError, VerificationError

if TYPE_CHECKING:
    from sealpod.sev.chain import Trust
    from sealpod.sev.policy import Policy
    from sealpod.sev.session import Session

EPILOG: Final = """\
Writes, in the current directory and all of them or none:
  NAME_tik.bin, NAME_tek.bin   16 raw bytes each, mode 0600: the owner keeps them
  NAME_godh.b64                the owner's certificate   } base64, for QEMU's dh-cert-file
  NAME_session.b64             the session               } and session-file

Existing keys are not replaced without --force: a launch whose TIK is gone cannot be verified any more.

POLICY is decimal, or 0x and hexadecimal; a minimum firmware version stands in its upper half as the SEV API
has it (0x18000003: 0.24 or later, no debugging, no key sharing). The chain behind the PDH is verified by
--verify (AMD's roots) or --ca; without them whoever made the file can read what the session protects.
"""

_REMEDY: Final = "make no session for this platform, unless you know whose root it is and give it by --ca"


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from sealpod.cli.sev_chain import add_ca, add_offline

    parser.epilog = EPILOG
    parser.add_argument(
        "pdh", metavar="PDH", help="the platform's PDH: alone, or any chain that starts with it"
    )
    parser.add_argument("policy", metavar="POLICY", help="the launch policy")
    parser.add_argument(
        "-n", "--name", metavar="NAME", default="vm", help="how the files begin (default: vm)"
    )
    parser.add_argument("--verify", action="store_true", help="verify the chain first, up to a root of AMD")
    add_ca(parser, "verify the chain first, up to this root: a file, or a directory of such files")
    add_offline(parser)
    parser.add_argument("--force", action="store_true", help="replace existing keys")
    add_output(parser, _run)


def _run(args: argparse.Namespace) -> int:
    from sealpod.cli.outputs import write_outputs
    from sealpod.sev.policy import Policy
    from sealpod.sev.session import Session

    policy = Policy.parse(args.policy)
    if policy.reserved:
        raise UsageError(
            f"policy {policy.describe()}: firmware refuses a session with reserved bits",
            code="policy.reserved",
        )
    data = read_file(args.pdh, what="PDH file")
    trust = _verify(args, data)
    try:
        session = Session.create(_pdh(data), policy, rng=os.urandom)
    except DecodeError as error:
        raise DecodeError(
            f"could not start session based off of provided certificate chain: {error.message}",
            code=error.code,
            remedy=error.remedy,
        ) from error
    files = _files(args.name, session)
    write_outputs(list(files.values()), replace_keys=args.force)
    names = {kind: file.path for kind, file in files.items()}
    print_result(args, _text(policy, names), _record(policy, trust, names))
    return 0


def _pdh(data: bytes) -> Any:
    from sealpod.sev.chainfile import decode_pdh

    return decode_pdh(data)


def _verify(args: argparse.Namespace, data: bytes) -> Trust | None:
    if args.ca is None and not args.verify:
        note(
            "the chain of this PDH is not verified: whoever made the file can read what the session "
            "protects; --verify or --ca verifies it"
        )
        return None
    from sealpod.cli import sev_chain
    from sealpod.sev.chain import verify_chain
    from sealpod.sev.chainfile import PLATFORM_CHAIN_SIZE, Chain, PlatformChain
    from sealpod.sev.roots import AMD_ARKS

    platform = PlatformChain.decode(data)
    trusted = AMD_ARKS
    if args.ca is not None:
        authority = sev_chain.chosen_authority(args.ca, platform.cek)
        name = sev_chain.root_name(authority.ark.sha256, os.path.basename(os.path.normpath(args.ca)))
        trusted = {authority.ark.sha256: name}
    elif len(data) > PLATFORM_CHAIN_SIZE:
        authority = Chain.decode(data).authority
    else:
        authority = sev_chain.amd_authority(args, platform.cek)
    try:
        return verify_chain(platform.under(authority), trusted)
    except VerificationError as error:
        raise VerificationError(error.message, code=error.code, remedy=_REMEDY) from error


def _files(name: str, session: Session) -> dict[str, Any]:
    from sealpod.cli.outputs import OutputFile

    return {
        "tik": OutputFile(f"{name}_tik.bin", session.keys.tik),
        "tek": OutputFile(f"{name}_tek.bin", session.keys.tek),
        "godh": OutputFile(f"{name}_godh.b64", base64.b64encode(session.godh.encode())),
        "session": OutputFile(f"{name}_session.b64", base64.b64encode(session.blob)),
    }


def _text(policy: Policy, names: dict[str, str]) -> str:
    return "\n".join([f"policy {policy.describe()}", *names.values()])


def _record(policy: Policy, trust: Trust | None, names: dict[str, str]) -> dict[str, Any]:
    return {
        "policy": policy.value,
        "verified": trust is not None,
        "root": None if trust is None else trust.root,
        "files": names,
    }

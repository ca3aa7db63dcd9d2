# SPDX-License-Identifier: Apache-2.0
"""``sealpod measure id-block``: what a SEV-SNP launch must be, signed by the guest owner.

Takes snp-create-id-block's options and prints its three lines; the fields that tool leaves fixed can be set.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import re
import sys
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sealpod.cli.measure_input import read_text
from sealpod.cli.measure_output import print_json
from sealpod.errors import DecodeError, UsageError
from sealpod.measure.gctx import LD_SIZE
from sealpod.measure.idblock import DEFAULT_POLICY, MUST_BE_ONE, IdAuth, IdBlock, authenticate, key_digest

HELP: Final = "Make the ID block of a SEV-SNP guest and its authentication"

EPILOG: Final = """\
The firmware starts no other guest than the block's, and reports its ids and the keys' digests:

  sealpod measure id-block --idkey id.pem --authorkey author.pem --measurement \\
    "$(sealpod measure --mode snp --vcpus 2 --vcpu-type EPYC-v4 --ovmf OVMF.fd --output-format base64)"

Keys are on P-384, as PEM without a passphrase: openssl ecparam -name secp384r1 -genkey -noout. The first line
printed is for QEMU's -object sev-snp-guest; with an author's key add author-key-enabled=on.
"""


_SEV_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = EPILOG
    parser.add_argument("--measurement", metavar="VALUE", help="launch digest, base64 or hex")
    parser.add_argument("--idkey", metavar="PATH", help="private key that signs the block")
    parser.add_argument("--authorkey", metavar="PATH", help="private key that signs the id key")
    parser.add_argument("--no-author", action="store_true", help="leave the author's key out")
    parser.add_argument("--family-id", metavar="HEX", type=_id, default=bytes(16), help="16 bytes")
    parser.add_argument("--image-id", metavar="HEX", type=_id, default=bytes(16), help="16 bytes")
    parser.add_argument("--guest-svn", metavar="N", type=_number, default=0, help="the guest's version")
    parser.add_argument(
        "--policy", metavar="VALUE", type=_number, default=DEFAULT_POLICY, help="default 0x30000"
    )
    parser.add_argument("--block-version", metavar="N", type=_number, default=1, help="default 1")
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="what to print (default: text)"
    )


def run(args: argparse.Namespace) -> int:
    """Sign and print."""
    if args.idkey is None or (args.authorkey is None and not args.no_author):
        raise UsageError("missing key files for id block", code="idblock.key")
    if args.authorkey is not None and args.no_author:
        raise UsageError("--authorkey and --no-author exclude each other", code="idblock.key")
    block = IdBlock(
        _measurement(args.measurement),
        args.family_id,
        args.image_id,
        args.block_version,
        args.guest_svn,
        args.policy,
    )
    _warn(block)
    author = None if args.no_author else _key(args.authorkey)
    auth = authenticate(block, _key(args.idkey), author)
    if args.output == "json":
        _print_json(block, auth)
    else:
        _print_text(block, auth)
    return 0


def _warn(block: IdBlock) -> None:
    """Say what no firmware takes: fields can be set to anything, also to try that."""
    if not block.policy & MUST_BE_ONE:
        print("sealpod: warning: bit 17 of the policy is 0; firmware refuses it", file=sys.stderr)
    if block.version != 1:
        print("sealpod: warning: firmware knows version 1 of the block only", file=sys.stderr)


def _print_text(block: IdBlock, auth: IdAuth) -> None:
    print(f"id-block={_base64(block.encode())},id-auth={_base64(auth.encode())}")
    print(f"id_key_hash: {_base64(key_digest(auth.id_key))}")
    if auth.has_author:
        print(f"author_key: {_base64(key_digest(auth.author_key))}")


def _print_json(block: IdBlock, auth: IdAuth) -> None:
    print_json(
        {
            "schemaVersion": 1,
            "idBlock": _base64(block.encode()),
            "idAuth": _base64(auth.encode()),
            "launchDigest": block.launch_digest.hex(),
            "familyId": block.family_id.hex(),
            "imageId": block.image_id.hex(),
            "version": block.version,
            "guestSvn": block.guest_svn,
            "policy": hex(block.policy),
            "idKeyDigest": key_digest(auth.id_key).hex(),
            "authorKeyDigest": key_digest(auth.author_key).hex() if auth.has_author else None,
        }
    )


def _measurement(text: str | None) -> bytes:
    if text is None:
        raise UsageError("missing --measurement", code="idblock.field")
    if _SEV_DIGEST.fullmatch(text):
        # It would pass for base64 of 48 bytes.
        raise UsageError(
            "--measurement is a digest of SEV or SEV-ES, which have no ID block",
            code="idblock.field",
            remedy="take it from sealpod measure --mode snp",
        )
    try:
        value = bytes.fromhex(text) if len(text) == 2 * LD_SIZE else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        value = b""
    if len(value) != LD_SIZE:
        raise UsageError(
            f"--measurement takes {LD_SIZE} bytes as base64 or hex",
            code="idblock.field",
            remedy="take it from sealpod measure --mode snp",
        )
    return value


def _key(path: str) -> EllipticCurvePrivateKey:
    """A private key. What is wrong with one is said without a word of what is in it."""
    try:
        key = load_pem_private_key(read_text(path), None)
    except TypeError:
        raise UsageError(f"the key in {path} has a passphrase", code="idblock.key") from None
    except ValueError:
        raise DecodeError(f"{path} is no private key in PEM form", code="idblock.malformed") from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise UsageError("The provided PEM file does not contain an EC private key.", code="idblock.key")
    return key


def _id(text: str) -> bytes:
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        value = b""
    if len(value) != 16:
        raise argparse.ArgumentTypeError(f"not 16 bytes in hex: {text!r}")
    return value


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number: {text!r}") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

# SPDX-License-Identifier: Apache-2.0
"""``sealpod image``: encrypt, copy and inspect container images."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any, Final

from sealpod.cli.progress import StreamProgress
from sealpod.errors import AccessError, NotFoundError, UsageError

if TYPE_CHECKING:
    from sealpod.image.pull import ResolvedImage
    from sealpod.registry.transports import Access, OpenSource
    from sealpod.secret import SecretBytes

HELP: Final = "Encrypt, copy and inspect container images"
EPILOG: Final = """\
Images are named as skopeo names them:
  docker://HOST[:PORT]/NAME[:TAG]   an image in a registry
  oci:DIRECTORY[:TAG]               an image in an OCI layout on disk

Example: make a key, encrypt an image with it, and give the key to the key broker:
  head -c 32 /dev/urandom > key
  sealpod image encrypt oci:app:v1 docker://registry.example/app:v1 --key-id key_id1 --key-file key
  sealpod kbs secret set key_id1 --from-file key
"""
KEY_SIZE: Final = 32  # bytes
ALGORITHMS: Final = ("aes_256_ctr", "A256GCM", "A256CTR")  # of sealpod.ocicrypt.keywrap.WRITTEN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    parser.epilog = EPILOG
    commands = parser.add_subparsers(dest="image_command", metavar="COMMAND", required=True)
    encrypt = _command(commands, "encrypt", "encrypt every layer of an image", _encrypt)
    encrypt.add_argument("source", metavar="SRC", help="the image to encrypt")
    encrypt.add_argument("target", metavar="DST", help="where to write the encrypted image")
    encrypt.add_argument(
        "--key-id", metavar="ID", required=True, help="under which id the broker keeps the key"
    )
    encrypt.add_argument("--key-file", metavar="FILE", required=True, help="the key: 32 raw bytes")
    encrypt.add_argument(
        "--algorithm",
        choices=ALGORITHMS,
        default=ALGORITHMS[0],
        help="how layer keys are wrapped: attestation-agent up to 0.4 reads aes_256_ctr only, later ones the"
        " other two; sealpod reads all (default: %(default)s)",
    )
    _add_output(encrypt)
    copy = _command(commands, "copy", "copy an image as it is", _copy)
    copy.add_argument("source", metavar="SRC", help="the image to copy")
    copy.add_argument("target", metavar="DST", help="where to write it")
    _add_output(copy)
    inspect = _command(commands, "inspect", "show an image's layers and the keys they need", _inspect)
    inspect.add_argument("source", metavar="SRC", help="the image to look at")
    _add_output(inspect)


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand."""
    status: int = args.image_run(args)
    return status


def _command(commands: Any, name: str, text: str, function: object) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text.capitalize()}."
    )
    command.set_defaults(image_run=function)
    command.add_argument(
        "--insecure-registry",
        metavar="HOST[:PORT]",
        action="append",
        default=[],
        help="speak plain HTTP to this registry (loopback always may)",
    )
    command.add_argument(
        "--auth-file", metavar="FILE", help="registry accounts, as `skopeo login` writes them"
    )
    command.add_argument(
        "--platform",
        metavar="OS/ARCH",
        default="linux/amd64",
        help="which image of a multi-platform one to take (default: %(default)s)",
    )
    command.add_argument("-q", "--quiet", action="store_true", help="no progress on standard error")
    return command


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form of the result")


def _encrypt(args: argparse.Namespace) -> int:
    from sealpod.image.encrypt import Recipient, encrypt
    from sealpod.registry.transports import open_sink, open_source

    recipient = Recipient(_read_key(args.key_file), args.key_id, args.algorithm)
    access = _access(args)
    source, selector = open_source(args.source, access)
    sink, target = open_sink(args.target, access)
    progress = StreamProgress(args.quiet)
    try:
        result = encrypt(
            source,
            selector,
            sink,
            target,
            recipient,
            rng=os.urandom,
            platform=_platform(args.platform),
            progress=progress,
        )
    finally:
        progress.clear()
    if args.output == "json":
        _print_json(
            {
                "manifestDigest": str(result.manifest_digest),
                "keyId": args.key_id,
                "layers": [_layer_json(layer) for layer in result.manifest.layers],
            }
        )
    else:
        print(f"{args.target}: {len(result.manifest.layers)} layers encrypted for key {args.key_id}")
        print(f"manifest {result.manifest_digest}")
    return 0


def _copy(args: argparse.Namespace) -> int:
    from sealpod.image.transfer import copy
    from sealpod.registry.transports import open_sink, open_source

    access = _access(args)
    source, selector = open_source(args.source, access)
    sink, target = open_sink(args.target, access)
    progress = StreamProgress(args.quiet)
    try:
        digest = copy(source, selector, sink, target, platform=_platform(args.platform), progress=progress)
    finally:
        progress.clear()
    if args.output == "json":
        _print_json({"manifestDigest": str(digest)})
    else:
        print(f"manifest {digest}")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from sealpod.image.pull import resolve
    from sealpod.registry.transports import open_source

    opened: OpenSource = open_source(args.source, _access(args))
    image = resolve(opened.source, opened.selector, _platform(args.platform))
    layers = [_layer_json(layer) for layer in image.manifest.layers]
    if args.output == "json":
        _print_json(_image_json(image, layers))
        return 0
    print(f"manifest {image.manifest_digest}")
    print(f"platform {image.config.os}/{image.config.architecture}")
    for layer in layers:
        state = f"encrypted for {', '.join(layer['keyIds'])}" if layer["encrypted"] else "plain"
        print(f"layer    {layer['digest']} {layer['size']} bytes, {layer['mediaType']}, {state}")
    return 0


def _image_json(image: ResolvedImage, layers: list[dict[str, Any]]) -> dict[str, object]:
    return {
        "manifestDigest": str(image.manifest_digest),
        "mediaType": image.manifest.media_type,
        "platform": f"{image.config.os}/{image.config.architecture}",
        "entrypoint": list(image.config.entrypoint),
        "cmd": list(image.config.cmd),
        "labels": dict(image.config.labels),
        "layers": layers,
    }


def _layer_json(layer: Any) -> dict[str, Any]:  # a Descriptor, imported lazily
    from sealpod.oci import mediatypes
    from sealpod.ocicrypt import annotations as enc
    from sealpod.ocicrypt.packet import AnnotationPacket

    packets = [AnnotationPacket.decode(data) for data in enc.packets(layer.annotations)]
    return {
        "digest": str(layer.digest),
        "size": layer.size,
        "mediaType": layer.media_type,
        "encrypted": mediatypes.is_encrypted(layer.media_type),
        "keyIds": [packet.kid for packet in packets] or list(enc.other_schemes(layer.annotations)),
    }


def _print_json(document: dict[str, object]) -> None:
    print(json.dumps({"schemaVersion": 1, **document}, indent=2))


def _read_key(path: str) -> SecretBytes:
    from sealpod.secret import SecretBytes

    data = _read(path, KEY_SIZE + 1, "key file")
    if len(data) != KEY_SIZE:
        size = f"{len(data)} bytes" if len(data) <= KEY_SIZE else f"more than {KEY_SIZE} bytes"
        raise UsageError(
            f"the key file {path} has {size}; need {KEY_SIZE} raw bytes",
            code="image.key-size",
            remedy=f"make one: head -c {KEY_SIZE} /dev/urandom > key (raw bytes, no base64, no newline)",
        )
    return SecretBytes(data)


def _read(path: str, limit: int, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFoundError(f"there is no {what} at {path}", code="image.file") from error
    except OSError as error:
        text = f"cannot read the {what} {path}: {os.strerror(error.errno or 0)}"
        raise AccessError(text, code="image.file") from error


def _access(args: argparse.Namespace) -> Access:
    from sealpod.registry.transports import Access

    insecure = tuple(args.insecure_registry)
    if args.auth_file is None:
        return Access(insecure)
    from sealpod.registry.authfile import MAX_FILE, parse_auth_file

    return Access(insecure, credentials=parse_auth_file(_read(args.auth_file, MAX_FILE + 1, "auth file")))


def _platform(text: str) -> Any:  # a Platform, imported lazily
    from sealpod.oci.descriptor import Platform

    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise UsageError(f"not a platform: {text!r}", remedy="write it as linux/amd64")
    return Platform(*parts)

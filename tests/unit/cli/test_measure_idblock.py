# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from sealpod.cli import main as cli
from sealpod.errors import DecodeError, NotFoundError, SealpodError, UsageError
from sealpod.measure.idblock import IdBlock, key_digest, verify

LD = bytes(range(48))


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, passphrase: bytes = b"") -> bytes:
    protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


@pytest.fixture
def keys(tmp_path: Path) -> list[str]:
    found = []
    for option, secret in (("--idkey", 11), ("--authorkey", 22)):
        path = tmp_path / option.removeprefix("--")
        path.write_bytes(pem(ec.derive_private_key(secret, ec.SECP384R1())))
        found += [option, str(path)]
    return found


def run(*arguments: str) -> int:
    return cli.dispatch(["measure", "id-block", *arguments])


def fields(line: str) -> dict[str, bytes]:
    pairs = (part.split("=", 1) for part in line.split(","))
    return {name: base64.b64decode(value, validate=True) for name, value in pairs}


def test_the_three_lines(keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*keys, "--measurement", base64.b64encode(LD).decode()) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    found = fields(first)
    auth = verify(found["id-block"], found["id-auth"])
    assert IdBlock.decode(found["id-block"]) == IdBlock(LD)
    assert second == f"id_key_hash: {base64.b64encode(key_digest(auth.id_key)).decode()}"
    assert third == f"author_key: {base64.b64encode(key_digest(auth.author_key)).decode()}"


def test_every_field_can_be_set(keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--measurement", LD.hex(), "--family-id", "11" * 16, "--image-id", "0x" + "22" * 16]
    arguments += ["--guest-svn", "3", "--policy", "0xb0000", "--block-version", "2", "-o", "json"]
    assert run(*keys, *arguments) == 0
    record = json.loads(capsys.readouterr().out)
    block, auth = (base64.b64decode(record[name]) for name in ("idBlock", "idAuth"))
    assert IdBlock.decode(block) == IdBlock(LD, b"\x11" * 16, b"\x22" * 16, 2, 3, 0xB0000)
    found = verify(block, auth)
    assert record["schemaVersion"] == 1
    assert record["idKeyDigest"] == key_digest(found.id_key).hex()
    assert record["authorKeyDigest"] == key_digest(found.author_key).hex()
    assert (record["policy"], record["guestSvn"]) == ("0xb0000", 3)


def test_without_an_author(keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*keys[:2], "--no-author", "--measurement", LD.hex()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    found = fields(lines[0])
    assert not verify(found["id-block"], found["id-auth"]).has_author


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "missing key files for id block"),
        (["--idkey", "IDKEY"], "missing key files for id block"),
        (["--authorkey", "IDKEY"], "missing key files for id block"),
        (["--idkey", "IDKEY", "--authorkey", "IDKEY"], "missing --measurement"),
        (["--idkey", "IDKEY", "--authorkey", "IDKEY", "--no-author"], "exclude each other"),
        (["--idkey", "IDKEY", "--no-author", "--measurement", "AAAA"], "48 bytes"),
        (["--idkey", "IDKEY", "--no-author", "--measurement", "x" * 96], "48 bytes"),
        (["--idkey", "IDKEY", "--no-author", "--measurement", "0f" * 32], "SEV or SEV-ES"),
        (["--idkey", "IDKEY", "--no-author", "--measurement", LD.hex(), "--guest-svn", "-1"], "does not fit"),
    ],
)
def test_wrong_usage(arguments: list[str], text: str, keys: list[str]) -> None:
    with pytest.raises(UsageError, match=text):
        run(*(keys[1] if word == "IDKEY" else word for word in arguments))


def test_fields_no_firmware_takes_are_warned_of(keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    digest = ["--measurement", LD.hex()]
    assert run(*keys, *digest) == 0
    assert capsys.readouterr().err == ""
    assert run(*keys, *digest, "--policy", "0x10000", "--block-version", "2") == 0
    policy, version = capsys.readouterr().err.splitlines()
    assert "bit 17 of the policy is 0" in policy
    assert "version 1" in version


@pytest.mark.parametrize("arguments", [["--family-id", "00"], ["--image-id", "z" * 32], ["--policy", "high"]])
def test_values_that_are_none(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "sealpod measure id-block: error:" in capsys.readouterr().err


def test_keys_that_cannot_sign(tmp_path: Path) -> None:
    secret = ec.derive_private_key(33, ec.SECP384R1())
    cases: list[tuple[type[SealpodError], str, bytes | None]] = [
        (NotFoundError, "no such file", None),
        (
            DecodeError,
            "no private key",
            b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
        ),
        (DecodeError, "no private key", b""),
        (UsageError, "has a passphrase", pem(secret, b"word")),
        (UsageError, "does not contain an EC private key", pem(ed25519.Ed25519PrivateKey.generate())),
        (UsageError, "SNP only supports the EC curve P-384", pem(ec.derive_private_key(3, ec.SECP256R1()))),
    ]
    path = tmp_path / "key"
    for family, text, data in cases:
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(family, match=text):
            run("--idkey", str(path), "--no-author", "--measurement", LD.hex())

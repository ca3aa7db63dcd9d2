# SPDX-License-Identifier: Apache-2.0
"""ID blocks are snp-create-id-block's (sev-snp-measure, PyPI): ours as its, its verified by us."""

from __future__ import annotations

import base64
import contextlib
import io
import sys
from pathlib import Path
from unittest import mock

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealpod.cli import main as cli
from sealpod.measure.idblock import IdAuth, verify

tool = pytest.importorskip("sevsnpmeasure.id_block")

secrets = st.integers(1, 1 << 380)


def run(entry_point: object, program: list[str]) -> tuple[object, list[str], str]:
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", program),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = entry_point()  # type: ignore[operator]
        except SystemExit as end:
            status = end.code
    return status, out.getvalue().splitlines(), err.getvalue()


def parts(line: str) -> tuple[bytes, bytes]:
    block, auth = line.split(",")
    return (
        base64.b64decode(block.removeprefix("id-block="), validate=True),
        base64.b64decode(auth.removeprefix("id-auth="), validate=True),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(id_secret=secrets, author_secret=secrets, digest=st.binary(min_size=48, max_size=48))
def test_lines_and_structures_are_equal(
    id_secret: int, author_secret: int, digest: bytes, tmp_path: Path
) -> None:
    arguments = ["--measurement", base64.b64encode(digest).decode()]
    for option, secret in (("--idkey", id_secret), ("--authorkey", author_secret)):
        key = ec.derive_private_key(secret, ec.SECP384R1())
        path = tmp_path / option
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        arguments += [option, str(path)]
    status, theirs, _ = run(tool.main, ["snp-create-id-block", *arguments])
    assert status == 0
    assert run(cli.main, ["sealpod", "measure", "id-block", *arguments])[0] == 0
    ours = run(cli.main, ["sealpod", "measure", "id-block", *arguments])[1]
    assert ours[1:] == theirs[1:]
    assert len(ours) == len(theirs) == 3
    (our_block, our_auth), (their_block, their_auth) = parts(ours[0]), parts(theirs[0])
    assert our_block == their_block
    # Theirs are signed with random numbers, so the signatures differ; both verify, and the rest is equal.
    unsigned = {"block_signature": bytes(512), "key_signature": bytes(512)}
    found: list[IdAuth] = [verify(their_block, each).replace(**unsigned) for each in (our_auth, their_auth)]
    assert found[0] == found[1]
    assert IdAuth.decode(their_auth).encode() == their_auth


@pytest.mark.parametrize("arguments", [[], ["--idkey", "x"], ["--frob"], ["--measurement"], ["x"]])
def test_errors_have_the_same_words(arguments: list[str]) -> None:
    theirs = run(tool.main, ["snp-create-id-block", *arguments])
    ours = run(cli.main, ["sealpod", "measure", "id-block", *arguments])
    assert ours[0] == theirs[0] == 2
    assert theirs[2].splitlines()[-1].removeprefix("snp-create-id-block: error: ") in ours[2]

# SPDX-License-Identifier: Apache-2.0
"""``Session -> Measuring -> VerifiedLaunch``: no secret is packed for a measurement nobody verified.

Held three times: by the values at run time, by the types before, and over the source, where the bare packet
format and the owner's word have one caller each.
"""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealpod.errors import DecodeError, UsageError, VerificationError
from sealpod.sev.cert import Certificate
from sealpod.sev.measurement import (
    FirmwareVersion,
    Measurement,
    Measuring,
    VerifiedLaunch,
    compute_measurement,
    take_owners_word,
)
from sealpod.sev.packet import unpack
from sealpod.sev.policy import Policy
from sealpod.sev.session import Session

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "src" / "sealpod"
VERSION = FirmwareVersion(0, 24, 15)
DIGEST = hashlib.sha256(b"what the guest was started from").digest()
IV = bytes(16)


@pytest.fixture
def session(certificates: dict[str, Certificate]) -> Session:
    return Session.create(certificates["pdh"], Policy(3), rng=os.urandom)


def measured(session: Session) -> Measurement:
    mnonce = os.urandom(16)
    measure = compute_measurement(session.keys.tik, VERSION, session.policy, DIGEST, mnonce)
    return Measurement(measure, mnonce)


def test_the_way_through(session: Session) -> None:
    measurement = measured(session)
    packet = Measuring.of(session).verify(VERSION, DIGEST, measurement).pack(b"x" * 16, iv=IV)
    assert unpack(session.keys, packet.header, packet.data, measurement.measure).reveal() == b"x" * 16


def test_a_measurement_that_does_not_match_leads_nowhere(session: Session) -> None:
    measuring, measurement = Measuring.of(session), measured(session)
    for version, digest in ((FirmwareVersion(0, 24, 14), DIGEST), (VERSION, bytes(32))):
        with pytest.raises(VerificationError):
            measuring.verify(version, digest, measurement)


def test_no_earlier_state_packs(session: Session) -> None:
    for state in (session, session.keys, Measuring.of(session), measured(session)):
        assert not hasattr(state, "pack")
    for proof in (None, True, object()):
        with pytest.raises(UsageError):
            VerifiedLaunch(session.keys, bytes(32), proof=proof)


def test_keys_do_not_show_in_any_state(session: Session) -> None:
    launch = Measuring.of(session).verify(VERSION, DIGEST, measured(session))
    text = "".join(map(repr, (session, Measuring.of(session), launch)))
    for key in (session.keys.tek, session.keys.tik):
        assert key.reveal().hex() not in text
        assert repr(key.reveal()) not in text


def test_the_owners_word_is_for_a_whole_measurement(session: Session) -> None:
    packet = take_owners_word(session.keys, bytes(32)).pack(b"x" * 16, iv=IV)
    assert unpack(session.keys, packet.header, packet.data, bytes(32)).reveal() == b"x" * 16
    for size in (0, 31, 48):
        with pytest.raises(DecodeError):
            take_owners_word(session.keys, bytes(size))


TYPED = '''\
from sealpod.sev.measurement import FirmwareVersion, Measurement, Measuring, VerifiedLaunch
from sealpod.sev.packet import Packet
from sealpod.sev.session import Session

def good(session: Session, version: FirmwareVersion, digest: bytes, found: Measurement) -> Packet:
    return Measuring.of(session).verify(version, digest, found).pack(b"", iv=b"")

def bad(session: Session, measuring: Measuring, version: FirmwareVersion, found: Measurement) -> None:
    session.pack(b"", iv=b"")  # type: ignore[attr-defined]
    session.keys.pack(b"", iv=b"")  # type: ignore[attr-defined]
    measuring.pack(b"", iv=b"")  # type: ignore[attr-defined]
    found.pack(b"", iv=b"")  # type: ignore[attr-defined]
    VerifiedLaunch(session.keys, found.measure)  # type: ignore[call-arg]
    launch: VerifiedLaunch = measuring  # type: ignore[assignment]
    Measuring.of(found)  # type: ignore[arg-type]
    measuring.verify(version, b"", found.measure)  # type: ignore[arg-type]

class Forged(VerifiedLaunch):  # type: ignore[misc]
    """A final class has no subclasses."""
'''


def test_the_types_say_so_too(tmp_path: Path) -> None:
    """Each ignored line must be an error: mypy refuses an ignore that ignores nothing."""
    (tmp_path / "states.py").write_text(TYPED, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        os.devnull,
        "--strict",
        "--follow-imports=silent",
    ]
    found = subprocess.run(
        [*command, "--cache-dir", str(ROOT / ".mypy_cache" / "states"), str(tmp_path / "states.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What a module imports from modules of ``sealpod.sev``, and attributes it takes of those."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sealpod.sev"):
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"sealpod.sev.{node.value.id}", node.attr


def users(module: str, name: str) -> set[str]:
    return {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if (module, name) in names(ast.parse(path.read_text(encoding="utf-8")))
    }


def test_the_bare_format_has_one_caller() -> None:
    assert users("sealpod.sev.packet", "pack") == {"sev/measurement.py"}


def test_the_owners_word_is_taken_on_his_own_command_line_only() -> None:
    found = users("sealpod.sev.measurement", "take_owners_word")
    assert all(path.startswith("cli/sev") for path in found), found

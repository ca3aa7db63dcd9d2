# SPDX-License-Identifier: Apache-2.0
"""The model's audit: a line for each command, no secret, bounded, whole among several processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from platformkit import FLASH, Content, FakeGuest

from sealpod.errors import FirmwareError
from sealpod.platform.model import open_model
from sealpod.platform.model.audit import AuditLog
from sealpod.platform.port import LaunchSpec
from sealpod.sev.chain import Chain
from sealpod.sev.policy import Policy
from sealpod.sev.session import Session


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_when_who_what_and_how_it_ended(tmp_path: Path) -> None:
    audit = AuditLog(str(tmp_path), lambda: 1_700_000_000.25)
    audit.record("LAUNCH_START", 3, "SUCCESS")
    audit.record("INIT", None, "INVALID_CONFIG")
    audit.close()
    audit.close()
    first, second = lines(tmp_path / "audit")
    assert first == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "pid": os.getpid(),
        "command": "LAUNCH_START",
        "handle": 3,
        "status": "SUCCESS",
    }
    assert (second["handle"], second["status"]) == (None, "INVALID_CONFIG")
    assert os.stat(tmp_path / "audit").st_mode & 0o777 == 0o600


def test_it_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    audits = [AuditLog(str(tmp_path), lambda: 0.0, limit=2000) for _ in range(2)]
    for number in range(200):
        audits[number % 2].record("GET_ID", number, "SUCCESS")
        sizes = [path.stat().st_size for path in tmp_path.iterdir()]
        assert sum(sizes) <= 2 * (2000 + 200)
    kept = [line["handle"] for name in ("audit.1", "audit") for line in lines(tmp_path / name)]
    assert kept == list(range(kept[0], 200))
    assert len(kept) > 15
    assert {path.name for path in tmp_path.iterdir()} == {"audit", "audit.1"}


def test_every_command_of_a_launch_is_there_and_no_secret_is(
    state_dir: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sealpod.platform")
    policy = Policy(3)

    async def main() -> Session:
        platform = await open_model(state_dir)
        session = Session.create(Chain.decode(await platform.certificate_chain()).pdh, policy, rng=os.urandom)
        guest = FakeGuest(Content())
        spec = LaunchSpec(policy, session.godh.encode(), session.blob, None, None, None, None, len(FLASH))
        launch = await platform.launch(spec)
        await launch.measure(guest)
        await launch.finish(guest)
        with pytest.raises(FirmwareError):
            await launch.finish(guest)
        await launch.close()
        await platform.close()
        os.close(guest.ram_fd)
        return session

    session = asyncio.run(main())
    found = [(line["command"], line["handle"], line["status"]) for line in lines(Path(state_dir) / "audit")]
    start = found.index(("LAUNCH_START", 1, "SUCCESS"))
    assert found[0] == ("INIT", None, "SUCCESS")
    assert [line for line in found[start:] if line[0] != "PLATFORM_STATUS"] == [
        ("LAUNCH_START", 1, "SUCCESS"),
        ("ACTIVATE", 1, "SUCCESS"),
        ("LAUNCH_UPDATE_DATA", 1, "SUCCESS"),
        ("LAUNCH_MEASURE", 1, "SUCCESS"),
        ("LAUNCH_FINISH", 1, "SUCCESS"),
        ("LAUNCH_FINISH", 1, "INVALID_GUEST_STATE"),
        ("DEACTIVATE", 1, "SUCCESS"),
        ("DF_FLUSH", None, "SUCCESS"),
        ("DECOMMISSION", 1, "SUCCESS"),
    ]
    text = caplog.text + (Path(state_dir) / "audit").read_text()
    assert "LAUNCH_FINISH, guest 1: INVALID_GUEST_STATE" in caplog.text
    for key in (session.keys.tek, session.keys.tik):
        assert key.reveal().hex() not in text

# SPDX-License-Identifier: Apache-2.0
"""The configuration files of deploy/ say what they are shipped for, and use no key nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealpod.kataconfig.document import parse
from sealpod.kataconfig.settings import Settings, settings_of

PLACE = Path(__file__).parents[3] / "deploy" / "kata"


def settings(name: str) -> Settings:
    return settings_of(parse((PLACE / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", sorted(path.name for path in PLACE.glob("*.toml")))
def test_every_key_is_known_and_has_an_effect(name: str) -> None:
    assert settings(name).findings() == ()


def test_the_confidential_one_is_attested_online() -> None:
    found = settings("configuration-qemu-sev.toml")
    assert (found.mode, found.policy, found.guest_kbc) == ("online", 3, "online_sev_kbc::localhost:44444")


def test_the_plain_one_is_plain() -> None:
    assert settings("configuration-qemu.toml").confidential_guest is False

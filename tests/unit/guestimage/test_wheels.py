# SPDX-License-Identifier: Apache-2.0
"""The pins: their format, and that guest and host have the same versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealpod.errors import DecodeError, OperationError
from sealpod.guestimage import recipe, wheels

HASH = "a" * 64
LOCK = Path(__file__).parents[3] / "requirements" / "dev.txt"


def test_a_pin_with_continuation_lines() -> None:
    (pin,) = wheels.parse_requirements(
        f"# note\nh2==4.1 \\\n    --hash=sha256:{HASH} \\\n    --hash=sha256:{'b' * 64}\n"
    )
    assert pin == wheels.Pin("h2", "4.1", (HASH, "b" * 64))
    assert wheels.parse_requirements(pin.text()) == (pin,)


@pytest.mark.parametrize(
    "line",
    [
        "h2",
        "h2==4.1",
        f"h2>=4.1 --hash=sha256:{HASH}",
        "h2==4.1 --hash=md5:abc",
        f"h2==4.1 --hash=sha256:{HASH} --index-url=https://index.example",
        "--index-url https://index.example",
        f"h2 @ https://index.example/h2.whl --hash=sha256:{HASH}",
    ],
)
def test_anything_else_is_refused(line: str) -> None:
    with pytest.raises(DecodeError):
        wheels.parse_requirements(line)


def test_every_wheel_of_the_recipe_is_pinned() -> None:
    names = {name for group in recipe.WHEELS_OF.values() for name in group}
    assert {pin.name for pin in wheels.pinned(names)} == names


def test_a_name_without_a_pin() -> None:
    with pytest.raises(OperationError) as caught:
        wheels.pinned(["left-pad"])
    assert caught.value.code == "guest.wheel"


def test_host_and_guest_agree() -> None:
    host = {pin.name: pin for pin in wheels.parse_requirements(LOCK.read_text())}
    for pin in wheels.parse_requirements(Path(wheels.REQUIREMENTS).read_text()):
        assert host[pin.name].version == pin.version
        assert set(pin.sha256) <= set(host[pin.name].sha256)


def test_no_address_in_the_lock_files() -> None:
    for path in (LOCK, Path(wheels.REQUIREMENTS)):
        assert "://" not in path.read_text()

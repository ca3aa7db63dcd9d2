# SPDX-License-Identifier: Apache-2.0
"""The guest image built twice, apart from each other, is the same to the byte, and within its budget."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sealpod.guestimage import cache_directory, recipe
from sealpod.guestimage.build import Result, build
from sealpod.guestimage.manifest import file_sha256

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def _build(place: Path) -> Result:
    """Build with a cache of its own, which begins with the packages already fetched."""
    cache = place / "cache"
    for part in ("debs", "wheels", "firmware"):
        source = os.path.join(cache_directory(), part)
        if os.path.isdir(source):
            shutil.copytree(source, cache / part)
    return build(str(place / "image"), str(cache), lambda step, text: None)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return _build(tmp_path_factory.mktemp("first"))


def test_size(first: Result) -> None:
    assert first.manifest.outputs["initrd"].size <= recipe.MAX_INITRD


def test_the_same_bytes_again(first: Result, tmp_path: Path) -> None:
    umask = os.umask(0o077)  # what the builder's umask or directory is must not matter
    try:
        second = _build(tmp_path / "a" / "longer" / "path")
    finally:
        os.umask(umask)
    assert second.manifest.encode() == first.manifest.encode()
    for output in first.manifest.outputs.values():
        paths = [os.path.join(result.directory, output.file) for result in (first, second)]
        assert [file_sha256(path) for path in paths] == [output.sha256, output.sha256]


def test_nothing_to_do(first: Result) -> None:
    cache = os.path.join(os.path.dirname(first.directory), "cache")
    steps: list[str] = []
    again = build(first.directory, cache, lambda step, text: steps.append(step))
    assert not again.built
    assert steps == []
    assert again.manifest == first.manifest


def test_other_settings_of_the_agent_are_another_image(first: Result, tmp_path: Path) -> None:
    cache = os.path.join(os.path.dirname(first.directory), "cache")
    config = tmp_path / "mine.toml"
    config.write_text("[endpoints]\nallowed = []\n")
    place = str(tmp_path / "image")
    made = build(place, cache, lambda step, text: None, agent_config=str(config))
    recorded = {one.name: one.sha256 for one in made.manifest.inputs if one.kind == "file"}
    assert recorded == {"agent-config.toml": file_sha256(str(config))}
    assert made.manifest.outputs["initrd"].sha256 != first.manifest.outputs["initrd"].sha256
    assert not build(place, cache, lambda step, text: None, agent_config=str(config)).built
    assert build(place, cache, lambda step, text: None).manifest == first.manifest


def test_nothing_half_made_is_left(first: Result) -> None:
    assert sorted(os.listdir(first.directory)) == ["guest.json", "initrd.img", "vmlinuz"]
    cache = os.path.join(os.path.dirname(first.directory), "cache")
    assert not [
        name
        for part in ("debs", "wheels", "base")
        for name in os.listdir(f"{cache}/{part}")
        if name[0] == "."
    ]

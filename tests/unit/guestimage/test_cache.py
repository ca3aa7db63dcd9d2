# SPDX-License-Identifier: Apache-2.0
"""Where the cache is, and that nothing half-made stays in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sealpod.errors import AccessError, NotFoundError, OperationError
from sealpod.guestimage import cache, tools


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SEALPOD_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/sealpod"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/sealpod"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/sealpod"),
        ({"HOME": "/h"}, "/h/.cache/sealpod"),
    ],
)
def test_cache_directory(environ: dict[str, str], expected: str) -> None:
    assert cache.cache_directory(environ) == expected


def test_a_directory_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "debs" / "key"
    with pytest.raises(FileNotFoundError), cache.completed(str(target)) as work:
        Path(work, "no such directory", "half").touch()
    assert os.listdir(tmp_path / "debs") == []
    with cache.completed(str(target)) as work:
        Path(work, "whole").touch()
        assert not target.exists()
    assert os.listdir(target) == ["whole"]
    with cache.completed(str(target)) as work:  # replaces what was there
        Path(work, "newer").touch()
    assert os.listdir(target) == ["newer"]


def test_leftovers_of_a_killed_build_go(tmp_path: Path) -> None:
    for name in ("debs/.key.abc", "base/.key.def", "debs/key", "guest"):
        (tmp_path / name).mkdir(parents=True)
    cache.clear_leftovers(str(tmp_path))
    assert sorted(os.listdir(tmp_path / "debs")) == ["key"]
    assert os.listdir(tmp_path / "base") == []
    assert (tmp_path / "guest").exists()


def test_only_the_latest_bases_stay(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "used", "old", "older")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    cache.keep_latest(str(tmp_path), "older", 2)
    assert sorted(os.listdir(tmp_path)) == ["new", "older"]


def test_a_forbidden_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AccessError) as caught:
        cache.make_directory(str(tmp_path / "file" / "below"))
    assert "SEALPOD_CACHE" in caught.value.remedy


def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(NotFoundError) as caught:
        tools.run(["no-such-program"], package="some-package")
    assert caught.value.code == "tool.missing"
    assert "some-package" in caught.value.remedy


def test_a_failed_program_has_its_last_words() -> None:
    with pytest.raises(OperationError) as caught:
        tools.run(["sh", "-c", "echo first; echo last >&2; exit 3"])
    assert "status 3" in caught.value.message
    assert "last" in caught.value.message


def test_what_a_build_runs_does_not_see_the_callers_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "5")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("https_proxy", "kept")
    shown = tools.environment()
    assert "SOURCE_DATE_EPOCH" not in shown
    assert "PYTHONOPTIMIZE" not in shown
    assert shown["https_proxy"] == "kept"

# SPDX-License-Identifier: Apache-2.0
"""Kernel modules on demand, with the system call recorded."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sealpod.agent import modules, syscalls
from sealpod.errors import NotFoundError, OperationError, UsageError


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[tuple[str, str]]]:
    """A directory of modules and what was loaded of it."""
    (tmp_path / "order").write_text("base\nmiddle base\ntop middle base\n")
    (tmp_path / "loaded").mkdir()
    made: list[tuple[str, str]] = []
    for name in ("base", "middle", "top"):
        (tmp_path / f"{name}.ko").write_text(name)

    def load(descriptor: int, parameters: str) -> None:
        name = os.read(descriptor, 16).decode()
        made.append((name, parameters))
        (tmp_path / "loaded" / name).mkdir()

    monkeypatch.setattr(syscalls, "load_module", load)
    return tmp_path, made


def load(directory: Path, name: str, parameters: str = "") -> None:
    modules.load(name, parameters, directory=str(directory), loaded=str(directory / "loaded"))


def test_what_it_needs_first_and_each_once(image: tuple[Path, list[tuple[str, str]]]) -> None:
    directory, made = image
    load(directory, "top", "speed=9")
    load(directory, "top")
    assert made == [("base", ""), ("middle", ""), ("top", "speed=9")]


def test_a_module_of_elsewhere(image: tuple[Path, list[tuple[str, str]]], tmp_path: Path) -> None:
    for name in ("other", "top_"):
        with pytest.raises(NotFoundError):
            load(image[0], name)
    for name in ("", "../top", "a/b", "x" * 56):
        with pytest.raises(UsageError):
            load(image[0], name)
    with pytest.raises(NotFoundError):
        modules.load("top", directory=str(tmp_path / "none"), loaded=str(tmp_path / "none"))


def test_the_kernels_refusal(
    image: tuple[Path, list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, parameters: str) -> None:
        raise OSError(errno.ENOEXEC, "Exec format error")

    monkeypatch.setattr(syscalls, "load_module", refuse)
    with pytest.raises(OperationError, match="cannot load the kernel module base: Exec format error"):
        load(image[0], "top")

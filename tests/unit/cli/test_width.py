# SPDX-License-Identifier: Apache-2.0
"""Help is as wide as the terminal, as argparse has it."""

from __future__ import annotations

import os

import pytest

from sealpod.cli import main as cli


def widest(capsys: pytest.CaptureFixture[str]) -> int:
    with pytest.raises(SystemExit):
        cli.dispatch(["measure", "--help"])
    usage = capsys.readouterr().out.split("\n\n")[0]
    return max(map(len, usage.splitlines()))


@pytest.mark.parametrize("columns", [80, 100, 132])
def test_columns_decide(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert columns - 30 < widest(capsys) <= columns - 2


@pytest.mark.parametrize("said", ["", "0", "many"])
def test_without_a_terminal_there_are_eighty(
    said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_terminal(_: int) -> os.terminal_size:
        raise OSError

    monkeypatch.setenv("COLUMNS", said)
    monkeypatch.setattr(os, "get_terminal_size", no_terminal)
    assert 50 < widest(capsys) <= 78


def test_a_terminal_decides(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((120, 40)))
    assert 90 < widest(capsys) <= 118

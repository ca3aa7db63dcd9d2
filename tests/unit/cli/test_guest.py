# SPDX-License-Identifier: Apache-2.0
"""`sealpod guest build` refuses settings of the agent that would stop the guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealpod.cli import main as cli
from sealpod.errors import UsageError


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("no toml", "agent.config-file"),
        ("[endpoints]\nblocked = ['ExecProcess']", "agent.parameter"),
        (None, "agent.config-file"),
    ],
)
def test_bad_settings_of_the_agent(tmp_path: Path, text: str | None, code: str) -> None:
    config, image = tmp_path / "agent.toml", tmp_path / "image"
    if text is not None:
        config.write_text(text)
    with pytest.raises(UsageError) as caught:
        cli.dispatch(["guest", "build", "--directory", str(image), "--agent-config", str(config)])
    assert caught.value.code == code
    assert not image.exists()

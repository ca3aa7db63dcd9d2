# SPDX-License-Identifier: Apache-2.0
"""Where the platform's keys are kept by default."""

from __future__ import annotations

import pytest

from sealpod.platform.model.paths import default_state_dir


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({"HOME": "/root", "XDG_STATE_HOME": "/x"}, 0, "/var/lib/sealpod/platform"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": "/x"}, 1000, "/x/sealpod/platform"),
        ({"HOME": "/home/a"}, 1000, "/home/a/.local/state/sealpod/platform"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": ""}, 1000, "/home/a/.local/state/sealpod/platform"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": "rel"}, 1000, "/home/a/.local/state/sealpod/platform"),
    ],
)
def test_default_state_dir(environ: dict[str, str], uid: int, expected: str) -> None:
    assert default_state_dir(environ, uid=uid) == expected

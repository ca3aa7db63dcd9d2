# SPDX-License-Identifier: Apache-2.0
"""Where a software platform keeps its keys when nobody says otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

SYSTEM_STATE_DIR: Final = "/var/lib/sealpod/platform"


def default_state_dir(environ: Mapping[str, str] | None = None, *, uid: int | None = None) -> str:
    """The state directory for ``uid`` (the process's own by default), from the XDG rules for ordinary users.

    A relative ``XDG_STATE_HOME`` is ignored, as the XDG base directory specification demands.
    """
    environ = os.environ if environ is None else environ
    if (os.geteuid() if uid is None else uid) == 0:
        return SYSTEM_STATE_DIR
    state_home = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state_home):
        home = environ.get("HOME") or os.path.expanduser("~")
        state_home = os.path.join(home, ".local", "state")
    return os.path.join(state_home, "sealpod", "platform")

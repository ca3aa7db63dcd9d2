# SPDX-License-Identifier: Apache-2.0
"""Start a child that cannot outlive this process.

The kernel kills the child when its parent dies, whatever killed the parent. That is set by ``setpriv``
(util-linux, essential on Debian) rather than between fork and exec, because code run there is unsafe next
to the threads of other libraries. The child leads its own session, so that Ctrl-C reaches only us and the
order of the clean-up is ours. The shell, ``nsenter`` and ``setpriv`` exec one another, so the process id is
the program's own from the first to the last.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from typing import Final

from sealpod.errors import NotFoundError

ENTER: Final = 'echo $$ > "$0" && exec "$@"'
"""Shell: enter a control group by its file, then be the program."""


async def spawn(
    arguments: Sequence[str], *, fds: Sequence[int] = (), netns: str = "", cgroup: str = ""
) -> asyncio.subprocess.Process:
    """Start ``arguments`` with ``fds`` inherited, no input, standard output dropped, errors piped.

    ``netns`` is the path of the network namespace to start in, ``cgroup`` the directory of the control group;
    empty means ours. Raises NotFoundError when the program, setpriv or nsenter is missing.
    """
    entering = ["/bin/sh", "-c", ENTER, f"{cgroup}/cgroup.procs"] if cgroup else []
    prefix = [*entering, *inside(netns), _tool("setpriv"), "--pdeathsig", "KILL", "--"]
    return await asyncio.create_subprocess_exec(
        *prefix,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=tuple(fds),
        start_new_session=True,
    )


def inside(netns: str) -> list[str]:
    """What goes before a command line to run it in the network namespace at ``netns``; nothing for ours."""
    return [_tool("nsenter"), f"--net={netns}", "--"] if netns else []


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise NotFoundError(f"{name} is not installed", remedy="install the package util-linux")
    return path

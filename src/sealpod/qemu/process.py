# SPDX-License-Identifier: Apache-2.0
"""Start a child that cannot outlive this process.

The kernel kills the child when its parent dies, whatever killed the parent. That is set by ``setpriv``
(util-linux, essential on Debian) rather than between fork and exec, because code run there is unsafe next
to the threads of other libraries. The child leads its own session, so that Ctrl-C reaches only us and the
order of the clean-up is ours.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence

from sealpod.errors import NotFoundError


async def spawn(arguments: Sequence[str], *, fds: Sequence[int] = ()) -> asyncio.subprocess.Process:
    """Start ``arguments`` with ``fds`` inherited, no input, standard output dropped, errors piped.

    Raises NotFoundError when the program or setpriv is missing.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise NotFoundError("setpriv is not installed", remedy="install the package util-linux")
    return await asyncio.create_subprocess_exec(
        setpriv,
        "--pdeathsig",
        "KILL",
        "--",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=tuple(fds),
        start_new_session=True,
    )

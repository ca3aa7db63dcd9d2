# SPDX-License-Identifier: Apache-2.0
"""iproute2 inside a network namespace: a process that entered it itself would have to be sure of its thread.

NotFoundError (``network.tools``) without it, OperationError (``network.failed``) when it fails.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from sealpod.errors import NotFoundError, OperationError
from sealpod.qemu.process import inside

SECONDS: Final = 20.0  # for one command of iproute2
MAX_OUTPUT: Final = 1 << 20  # bytes of an answer; a pod's tables have a few thousand


async def ask(path: str, *command: str) -> list[dict[str, Any]]:
    """What ``ip`` lists, as its JSON has it."""
    output = await run(path, "ip", "-json", *command)
    try:
        answer = json.loads(output or b"[]")
    except ValueError as error:
        raise OperationError("iproute2 did not answer with JSON", code="network.failed") from error
    # Interfaces that vanish while they are listed leave empty objects.
    return [entry for entry in answer if entry]


async def run(path: str, *command: str, text: str = "") -> bytes:
    """What a command given ``text`` prints, run inside the namespace at ``path``."""
    try:
        process = await asyncio.create_subprocess_exec(
            *inside(path),
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_OUTPUT,
        )
    except FileNotFoundError as error:
        raise NotFoundError(
            "nsenter is not installed", code="network.tools", remedy="install util-linux and iproute2"
        ) from error
    try:
        async with asyncio.timeout(SECONDS):
            output, complaint = await process.communicate(text.encode())
    except TimeoutError as error:
        raise OperationError(f"{command[0]} did not end in {SECONDS:g} s", code="network.failed") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = " ".join(complaint.decode(errors="replace").split())[-300:]
        raise OperationError(
            f"cannot set up the pod's network in {path}: {' '.join(command)}: {said}",
            code="network.failed",
            remedy="install iproute2; the kernel needs tun, sch_ingress, cls_u32 and act_mirred",
        )
    return output

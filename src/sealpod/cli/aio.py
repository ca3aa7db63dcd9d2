# SPDX-License-Identifier: Apache-2.0
"""Run a coroutine from the command line so that Ctrl-C and SIGTERM unwind every scope."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

Result = TypeVar("Result")
TERMINATED: Final = 128 + signal.SIGTERM


def run_async(work: Coroutine[Any, Any, Result]) -> Result:
    """The result. Ctrl-C raises KeyboardInterrupt, SIGTERM SystemExit(143), both after the clean-up."""
    return asyncio.run(_with_signals(work))


async def _with_signals(work: Coroutine[Any, Any, Result]) -> Result:
    loop = asyncio.get_running_loop()
    task: asyncio.Task[Result] = loop.create_task(work)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
    if received[0] == signal.SIGTERM:
        raise SystemExit(TERMINATED)
    raise KeyboardInterrupt

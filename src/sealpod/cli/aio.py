# SPDX-License-Identifier: Apache-2.0
"""Run a coroutine from the command line so that Ctrl-C and SIGTERM unwind every scope."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sealpod.errors import InterruptError, TerminateError

Result = TypeVar("Result")


def run_async(work: Coroutine[Any, Any, Result], doing: Callable[[], str] = lambda: "") -> Result:
    """The result. Ctrl-C raises InterruptError and SIGTERM TerminateError, both after the clean-up.

    ``doing`` says what was going on, for the error's text.
    """
    return asyncio.run(_with_signals(work, doing))


async def _with_signals(work: Coroutine[Any, Any, Result], doing: Callable[[], str]) -> Result:
    loop = asyncio.get_running_loop()
    task: asyncio.Task[Result] = loop.create_task(work)
    received: list[int] = []
    during = ""

    def stop(number: int) -> None:
        nonlocal during
        if not received:
            during = f" while {doing()}" if doing() else ""
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
        raise TerminateError(f"terminated{during}")
    raise InterruptError(f"interrupted{during}")

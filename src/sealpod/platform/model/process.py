# SPDX-License-Identifier: Apache-2.0
"""Start and end the model's process. Whatever happens, it is reaped and its descriptors are closed.

Everything here is quick and synchronous, so that a cancelled task cannot leave half of it undone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Final

from sealpod.errors import UnavailableError

_STDERR_TAIL: Final = 4096
"""Bytes of the process's error output looked at when it died."""
_GRACE: Final = 2.0
"""Seconds a process that closed its socket gets to end by itself, so that its exit status can be told."""


class ModelProcess:
    """The firmware's process and this end of its socket (SOCK_SEQPACKET, not blocking).

    The kernel ends it with the thread that started it: start it from the thread that runs the event loop.
    """

    def __init__(self, state_dir: str) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stderr = os.memfd_create("sealpod-model-stderr")
        self.socket.setblocking(False)
        try:
            self._process = subprocess.Popen(
                _command(state_dir, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C is for the operator, who then closes this platform in order.
                start_new_session=True,
            )
        except OSError as error:
            self.socket.close()
            os.close(self._stderr)
            raise UnavailableError(
                f"cannot start the model platform's process: {error.strerror}", code="platform.start"
            ) from error
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def close(self) -> None:
        """End and reap the process. Idempotent.

        It is killed rather than asked: its files are whole at any moment, and nothing else outlives it.
        """
        self.socket.close()
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1

    def obituary(self) -> UnavailableError:
        """The error for a process that closed its socket; reaps it."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        how, last = _how(self._process.returncode), self._last_line()
        self.close()
        return UnavailableError(
            f"the model platform's process died ({how})" + (f": {last}" if last else ""),
            code="platform.died",
            remedy="start again; guests it had launched are lost to it",
        )

    def _last_line(self) -> str:
        if self._stderr < 0:
            return ""
        size = os.fstat(self._stderr).st_size
        tail = os.pread(self._stderr, _STDERR_TAIL, max(0, size - _STDERR_TAIL))
        lines = tail.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def _command(state_dir: str, fd: int) -> tuple[str, ...]:
    # -P: a directory the operator happens to be in must not provide modules.
    module = ("-P", "-m", "sealpod.platform.model")
    return (sys.executable, *module, "--state", state_dir, "--fd", str(fd))


def _how(status: int | None) -> str:
    if status is None:
        return "it closed its socket"
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"exit status {status}"

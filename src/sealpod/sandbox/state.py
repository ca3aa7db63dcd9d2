# SPDX-License-Identifier: Apache-2.0
"""What is on disk of a sandbox: enough to show it, and to clean up after a shim that was killed.

::

    RUN/sandboxes/<id>/     0700
      sandbox.json          0600, replaced whole; its schema is 1
      console.log           the guest's last lines, written when its machine ends or on request

``RUN`` is ``/run/sealpod``, or what ``SEALPOD_RUN_DIR`` names. Processes are recorded with their start time,
so that a number the kernel has given to somebody else is never killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sealpod.errors import ConflictError, NotFoundError, OperationError, UsageError

ENVIRONMENT: Final = "SEALPOD_RUN_DIR"
RUN: Final = "/run/sealpod"
SCHEMA_VERSION: Final = 1
MAX_SIZE: Final = 1 << 20
_STATE: Final = "sandbox.json"
_CONSOLE: Final = "console.log"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
_START_TIME: Final = 19  # field of /proc/<pid>/stat after the command, counted from 0


def root() -> str:
    """The directory with one directory for each sandbox."""
    return os.path.join(os.environ.get(ENVIRONMENT) or RUN, "sandboxes")


class SandboxState:
    """One sandbox's directory."""

    def __init__(self, sandbox_id: str) -> None:
        if _ID.fullmatch(sandbox_id) is None:
            raise UsageError(f"{sandbox_id[:64]!r} is no sandbox id", code="sandbox.id")
        self.id = sandbox_id
        self.directory = os.path.join(root(), sandbox_id)

    def create(self) -> None:
        """Make the directory. ConflictError when there is one."""
        try:
            os.makedirs(os.path.dirname(self.directory), mode=0o700, exist_ok=True)
            os.mkdir(self.directory, 0o700)
        except FileExistsError as error:
            raise ConflictError(
                f"there is a sandbox {self.id} already",
                code="sandbox.taken",
                remedy=f"if its shim is dead: `sealpod sandbox rm {self.id}`",
            ) from error
        except OSError as error:
            raise self._unusable(error) from error

    def write(self, record: Mapping[str, object]) -> None:
        """Replace ``sandbox.json``."""
        text = json.dumps({"schemaVersion": SCHEMA_VERSION, **record}, indent=2)
        self._replace(_STATE, text)

    def write_console(self, lines: Iterable[str]) -> None:
        """Replace ``console.log``. The guest's words are not worth an error."""
        with contextlib.suppress(OperationError):
            self._replace(_CONSOLE, "".join(f"{line}\n" for line in lines))

    def read(self) -> dict[str, Any]:
        """``sandbox.json``, empty when it was not yet written or is not readable as such.

        :raise NotFoundError: there is no such sandbox.
        """
        if not os.path.isdir(self.directory):
            raise NotFoundError(
                f"there is no sandbox {self.id} on this machine",
                code="sandbox.unknown",
                remedy="`sealpod sandbox ls` lists them",
            )
        with contextlib.suppress(OSError, ValueError):
            with open(os.path.join(self.directory, _STATE), encoding="utf-8") as source:
                found = json.loads(source.read(MAX_SIZE))
            if isinstance(found, dict) and found.get("schemaVersion") == SCHEMA_VERSION:
                return found
        return {}

    def console(self) -> list[str]:
        """The lines of ``console.log``."""
        with (
            contextlib.suppress(OSError),
            open(os.path.join(self.directory, _CONSOLE), encoding="utf-8", errors="replace") as source,
        ):
            return source.read(MAX_SIZE).splitlines()
        return []

    def remove(self) -> None:
        """Remove the directory; nothing happens when it is gone."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _replace(self, name: str, text: str) -> None:
        path = os.path.join(self.directory, name)
        try:
            descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8", errors="replace") as target:
                target.write(text)
            os.replace(f"{path}.new", path)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> OperationError:
        return OperationError(
            f"cannot keep the sandbox's state in {self.directory}: {error.strerror}",
            code="sandbox.state",
            remedy=f"see that there is room and the right to write, or set {ENVIRONMENT}",
        )


def sandbox_ids() -> list[str]:
    """Ids of the sandboxes with a directory, sorted."""
    with contextlib.suppress(OSError):
        return sorted(name for name in os.listdir(root()) if _ID.fullmatch(name))
    return []


def process_record(pid: int) -> dict[str, int]:
    """A process as it is recorded; a start time of 0 when it is gone already."""
    return {"pid": pid, "started": start_time(pid)}


def start_time(pid: int) -> int:
    """When the process started, in ticks since boot; 0 when there is none, or only a zombie."""
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as source,
    ):
        fields = source.read().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[_START_TIME])
    return 0


def is_alive(record: object) -> bool:
    """The very process that was recorded still runs."""
    pid, started = _pair(record)
    return started > 0 and start_time(pid) == started


def kill_recorded(records: Sequence[object]) -> None:
    """Kill the recorded processes that still are what they were."""
    for record in records:
        pid, started = _pair(record)
        with contextlib.suppress(OSError):
            # The descriptor holds the process; the start time, read afterwards, is then that of this one.
            descriptor = os.pidfd_open(pid)
            try:
                if started > 0 and start_time(pid) == started:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)


def _pair(record: object) -> tuple[int, int]:
    if isinstance(record, dict):
        pid, started = record.get("pid"), record.get("started")
        if isinstance(pid, int) and isinstance(started, int) and pid > 1:
            return pid, started
    return 0, 0

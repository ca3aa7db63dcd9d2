# SPDX-License-Identifier: Apache-2.0
"""The first process of a pid namespace that containers share.

A container of nothing but a static program that waits and collects what dies around it. Its neighbours see
it as process 1, so it has no rights, and no files but itself for them to look at through ``/proc/1/root``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from typing import Any, Final

from sealpod.agent import mounts
from sealpod.agent.namespaces import PID, Namespaces
from sealpod.agent.reaper import Reaper
from sealpod.agent.runtime import Runtime
from sealpod.errors import NotFoundError

PROGRAM: Final = "/usr/bin/catatonit"
NOBODY: Final = 65534
OOM_SCORE: Final = -998
"""It costs next to nothing, and its death is everybody's."""


class Holder:
    """Started once, when the first container asks for it."""

    def __init__(
        self,
        name: str,
        directory: str,
        runtime: Runtime,
        reaper: Reaper,
        namespaces: Namespaces,
        program: str = PROGRAM,
    ) -> None:
        self._name = name
        self._directory = directory
        self._runtime = runtime
        self._reaper = reaper
        self._namespaces = namespaces
        self._program = program
        self._lock = threading.Lock()
        self._pid = 0

    def path(self, creating: threading.Lock) -> str:
        """The shared namespace. ``creating`` keeps others from making a container at the same time."""
        with self._lock:
            if not self._pid:
                self._start(creating)
            return self._namespaces.paths[PID]

    def _start(self, creating: threading.Lock) -> None:
        if not os.path.exists(self._program):
            raise NotFoundError("this guest has no holder for shared process ids", code="sandbox.pidns")
        os.makedirs(os.path.join(self._directory, "rootfs"), mode=0o755, exist_ok=True)
        with open(os.path.join(self._directory, "config.json"), "w", encoding="utf-8") as file:
            json.dump(self._document(), file)
        try:
            with creating:
                self._reaper.forget_unclaimed()
                pid = self._runtime.create(self._name, self._directory, None)
            with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as score:
                score.write(str(OOM_SCORE))
            self._runtime.start(self._name, self._directory)
            self._namespaces.keep(PID, f"/proc/{pid}/ns/pid")
        except BaseException:
            with contextlib.suppress(Exception):
                self._runtime.delete(self._name, self._directory)
            raise
        self._pid = pid

    def _document(self) -> dict[str, Any]:
        shared = self._namespaces.paths.items()
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": NOBODY, "gid": NOBODY},
                "args": ["/pause", "-P"],
                "env": [],
                "cwd": "/",
                "capabilities": {},
                "noNewPrivileges": True,
            },
            "root": {"path": os.path.join(self._directory, "rootfs"), "readonly": False},
            # The OCI runtime wants a /dev for its devices.
            "mounts": [mounts.memory("/dev"), mounts.file_mount(self._program, "/pause")],
            "linux": {
                "namespaces": [
                    {"type": "pid"},
                    {"type": "mount"},
                    *({"type": kind, "path": path} for kind, path in shared),
                ],
                "cgroupsPath": f"/sealpod/{self._name}",
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            },
        }

    def kill(self) -> None:
        """End it, and with it whoever shares its namespace."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

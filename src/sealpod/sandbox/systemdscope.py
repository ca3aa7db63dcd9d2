# SPDX-License-Identifier: Apache-2.0
"""A transient scope of systemd's as a pod's control group, where kubelet and containerd use systemd's.

systemd makes a scope for processes that exist, and ends it when the last has left. ``systemd-run`` puts a
process of its own there, which holds the scope until the pod's are in it; as the scope is delegated
(``Delegate=yes``), they may enter it, and systemd leaves what is in there alone. The properties are those
Kata asks for.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
from typing import Final

from sealpod.errors import OperationError
from sealpod.sandbox.cgroupplan import Scope

BOOTED: Final = "/run/systemd/system"  # sd_booted(3)
PROPERTIES: Final = (
    "DefaultDependencies=no",
    "Delegate=yes",
    "MemoryAccounting=yes",
    "CPUAccounting=yes",
    "IOAccounting=yes",
)
HOLD: Final = ("/bin/sh", "-c", "echo held; read -r _")
"""Ends with our end of its input, also when this process is killed."""
MAX_TEXT: Final = 300
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 2.0


class HeldScope:
    """A scope that exists until it is released and nobody else is in it."""

    def __init__(self, scope: Scope) -> None:
        self._process = _start(scope)
        stdout = self._process.stdout
        ready = stdout is not None and select.select([stdout], [], [], START_SECONDS)[0]
        if not ready:
            self._process.kill()
        if stdout is None or stdout.readline() != b"held\n":
            _, complaint = self._process.communicate()
            text = " ".join(complaint.decode(errors="replace").split())[:MAX_TEXT]
            raise failed(scope, text if ready else f"no answer within {START_SECONDS:g} s")

    def release(self) -> None:
        """The pod's processes hold it now, or nobody needs it. Idempotent."""
        with contextlib.suppress(OSError, ValueError):
            self._process.communicate()


def stop(unit: str) -> None:
    """Have systemd end and remove the scope, if it has not yet.

    A group that others remove is not missed by systemd, which would keep the unit for ever.
    """
    program = shutil.which("systemctl")
    if program is not None and os.path.isdir(BOOTED):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [program, "--system", "stop", "--", unit],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=STOP_SECONDS,
                check=False,
            )


def failed(scope: Scope, reason: str) -> OperationError:
    """Why there is no such scope."""
    return OperationError(
        f"systemd did not make {scope.unit} in {scope.slice}: {reason or 'it does not say why'}",
        code="cgroup.systemd",
        remedy="see `systemctl status` of the slice; without systemd, set SystemdCgroup = false in containerd"
        " and cgroupDriver: cgroupfs in kubelet",
    )


def _start(scope: Scope) -> subprocess.Popen[bytes]:
    program = shutil.which("systemd-run")
    if program is None or not os.path.isdir(BOOTED):
        raise failed(scope, "this machine does not run systemd")
    options = [word for one in PROPERTIES for word in ("--property", one)]
    return subprocess.Popen(
        [
            *(program, "--scope", "--quiet", "--collect", "--system"),
            *(f"--unit={scope.unit}", f"--slice={scope.slice}", *options, "--", *HOLD),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

# SPDX-License-Identifier: Apache-2.0
"""Namespaces that outlive the containers in them: a pod's ipc and uts, and, if it shares one, its pids.

A namespace lives as long as a process is in it or its handle is mounted somewhere. Ipc and uts are made by
a thread for itself, and the thread's handles are mounted below ``/run/sandbox-ns``. A pid namespace ends with
its first process whatever is mounted, so a holder runs in it (:mod:`sealpod.agent.holder`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Final

from sealpod.agent import syscalls
from sealpod.errors import OperationError, SealpodError

DIRECTORY: Final = "/run/sandbox-ns"
CODE: Final = "sandbox.namespace"
IPC: Final = "ipc"
UTS: Final = "uts"
PID: Final = "pid"


class Namespaces:
    """The shared namespaces of one pod."""

    def __init__(self, directory: str = DIRECTORY) -> None:
        self._directory = directory
        self.paths: dict[str, str] = {}
        """Path by type of what exists."""

    def make(self, hostname: str) -> None:
        """Ipc and uts, the latter with the pod's name in it."""

        def work() -> None:
            syscalls.unshare(syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
            socket.sethostname(hostname)
            for kind in (IPC, UTS):
                self.keep(kind, f"/proc/self/task/{threading.get_native_id()}/ns/{kind}")

        in_thread(work, "make the pod's namespaces")

    def keep(self, kind: str, handle: str) -> None:
        """Hold on to a namespace by mounting its handle."""
        path = os.path.join(self._directory, kind)
        os.makedirs(self._directory, mode=0o711, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o400))
        syscalls.mount(handle, path, "", syscalls.MS_BIND)
        self.paths[kind] = path

    def inside_ipc(self, work: Callable[[], None], what: str) -> None:
        """Do something in the pod's ipc namespace, or in the guest's if the pod has none."""

        def enter() -> None:
            if IPC in self.paths:
                descriptor = os.open(self.paths[IPC], os.O_RDONLY | os.O_CLOEXEC)
                try:
                    syscalls.setns(descriptor, syscalls.CLONE_NEWIPC)
                finally:
                    os.close(descriptor)
            work()

        in_thread(enter, what)

    def clear(self) -> None:
        """Let go of all."""
        for path in self.paths.values():
            with contextlib.suppress(OSError):
                syscalls.unmount(path, syscalls.MNT_DETACH)
                os.unlink(path)
        self.paths.clear()


def in_thread(work: Callable[[], None], what: str) -> None:
    """Run ``work`` in a thread that ends with it, and with it whatever the thread changed of itself."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 (raised again in the caller)
            errors.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    for error in errors:
        if isinstance(error, OSError):
            raise OperationError(f"cannot {what}: {error.strerror}", code=CODE) from error
        if isinstance(error, SealpodError):
            raise error
        raise OperationError(f"cannot {what}: {type(error).__name__}", code=CODE) from error

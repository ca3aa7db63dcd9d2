# SPDX-License-Identifier: Apache-2.0
"""crun, the program that makes containers: create, start, exec, update, delete.

Its messages go to a log file, not to standard error, because while it creates a container its standard
error is already the container's.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final

from sealpod.agent.reaper import Reaper
from sealpod.errors import AccessError, DeadlineError, NotFoundError, OperationError, SealpodError

CRUN: Final = "/usr/bin/crun"
STATE: Final = "/run/crun"
TIMEOUT: Final = 120.0
"""Seconds for one run of crun; natively it takes 20 ms, an emulated guest needs seconds under load."""
MAX_LOG: Final = 64 * 1024
"""Bytes of log looked at, from its end."""
NOT_EXECUTABLE: Final = ("exists but it is not executable", "is not a regular file")
"""What crun 1.21 says of such a command; 1.8 gives the reason for which it could not be opened."""
ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Runtime:
    """Runs crun and turns its failures into errors."""

    def __init__(
        self, reaper: Reaper, *, binary: str = CRUN, state: str = STATE, cgroups: str = "cgroupfs"
    ) -> None:
        self._reaper = reaper
        self._cgroups = cgroups
        self._binary = binary
        self._state = state

    def create(
        self, container_id: str, bundle: str, standard: tuple[int, int, int] | None, console: str = ""
    ) -> int:
        """Create a container from ``bundle``; the number of its first process, which waits to be started.

        ``console`` is the path of the socket that takes its terminal, if it has one.
        """
        pid_file = os.path.join(bundle, "pid")
        command = ["create", "--bundle", bundle, "--pid-file", pid_file, *_console(console), container_id]
        self._run(command, os.path.join(bundle, "create.log"), standard, os.path.join(bundle, "config.json"))
        return _number(pid_file)

    def execute(
        self, container_id: str, place: str, standard: tuple[int, int, int] | None, console: str = ""
    ) -> int:
        """Run the process described in ``<place>.json`` in a container; its number."""
        files = ["--process", f"{place}.json", "--pid-file", f"{place}.pid"]
        command = ["exec", "--detach", *files, *_console(console), container_id]
        self._run(command, f"{place}.log", standard, f"{place}.json")
        return _number(f"{place}.pid")

    def update(self, container_id: str, bundle: str, resources: dict[str, Any]) -> None:
        """Change the container's limits (OCI ``resources``)."""
        path = os.path.join(bundle, "resources.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(resources, file)
        self._run(["update", "--resources", path, container_id], os.path.join(bundle, "update.log"))

    def start(self, container_id: str, bundle: str) -> None:
        """Let the container's first process go."""
        self._run(["start", container_id], os.path.join(bundle, "start.log"))

    def delete(self, container_id: str, bundle: str) -> None:
        """Remove the container, killing what still runs."""
        self._run(["delete", "--force", container_id], os.path.join(bundle, "delete.log"))

    def _run(
        self,
        command: list[str],
        log: str,
        standard: tuple[int, int, int] | None = None,
        described: str = "",
    ) -> None:
        options = ["--root", self._state, "--cgroup-manager", self._cgroups, "--log", log]
        options += ["--log-format", "json"]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            pid = self._reaper.spawn(
                [self._binary, *options, *command], standard or (null, null, null), ENVIRONMENT
            )
        finally:
            os.close(null)
        try:
            status = self._reaper.wait(pid, TIMEOUT)
        except DeadlineError:
            self._reaper.kill(pid)
            raise
        if status:
            message = read_log(log) or f"crun ended with status {status}"
            raise failure(command[0], message, program(described))


def _console(path: str) -> list[str]:
    return ["--console-socket", path] if path else []


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read(16))


def read_log(path: str) -> str:
    """The last error message in crun's JSON log, or nothing."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_LOG))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("msg"), str) and entry["msg"]:
            return str(entry["msg"])
    return ""


def program(described: str) -> str:
    """The first word of the command in a configuration or process description; empty without one."""
    try:
        with open(described, encoding="utf-8") as file:
            document = json.load(file)
        return str(document.get("process", document)["args"][0])
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return ""


def failure(step: str, message: str, name: str = "") -> SealpodError:
    """The error for a failed crun command; a program that is missing or none has its own code.

    ``name`` is the program's, which crun does not say of a file that cannot be run.
    """
    if "executable file" in message:
        return NotFoundError(
            message, code="container.command-not-found", remedy="name a program that the image has"
        )
    if message.startswith("open executable") or any(text in message for text in NOT_EXECUTABLE):
        reason = message.removeprefix("open executable: ").removesuffix(": Operation not permitted")
        which = f"the command {name!r}" if name else "the command"
        text = f"{which} cannot be run: {reason}"
        remedy = "name a file that may be executed"
        return AccessError(text, code="container.not-executable", remedy=remedy)
    return OperationError(f"cannot {step} the container: {message}", code=f"container.{step}")

# SPDX-License-Identifier: Apache-2.0
"""The containers' methods of ``grpc.AgentService``: starting, signalling, waiting, streams."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Final

from sealpod.agent import limits, privileges, spec
from sealpod.agent.process import Process
from sealpod.agent.sandbox import Sandbox
from sealpod.agent.stdio import STDERR, STDOUT
from sealpod.errors import UsageError
from sealpod.wire.agentapi import MESSAGES
from sealpod.wire.message import Message

SIGNALS: Final = 64
"""Highest signal number of Linux on x86-64."""


class ProcessMethods:
    """Requests in, calls on containers and their processes, answers out."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def table(self) -> dict[str, Callable[[Message], Message | None]]:
        """Functions by the method's name."""
        return {
            "StartContainer": self._start_container,
            "RemoveContainer": self._remove_container,
            "SignalProcess": self._signal_process,
            "WaitProcess": self._wait_process,
            "WriteStdin": self._write_stdin,
            "ReadStdout": self._read_stdout,
            "ReadStderr": self._read_stderr,
            "ReadTerminationMessage": self._read_termination_message,
            "CloseStdin": self._close_stdin,
            "TtyWinResize": self._tty_win_resize,
            "ExecProcess": self._exec_process,
            "PauseContainer": self._pause_container,
            "ResumeContainer": self._resume_container,
            "UpdateContainer": self._update_container,
            "StatsContainer": self._stats_container,
            "GetOOMEvent": self._get_oom_event,
            "GetMetrics": self._get_metrics,
        }

    def _start_container(self, request: Message) -> None:
        self._sandbox.get(request.container_id).start()

    def _remove_container(self, request: Message) -> None:
        self._sandbox.remove(request.container_id, float(request.timeout) or None)

    def _signal_process(self, request: Message) -> None:
        if not 0 <= request.signal <= SIGNALS:
            raise UsageError(f"{request.signal} is no signal", code="container.signal")
        container = self._sandbox.get(request.container_id)
        if request.exec_id:
            container.kill(request.exec_id, request.signal)
        else:
            container.kill_all(request.signal)

    def _wait_process(self, request: Message) -> Message:
        container = self._sandbox.get(request.container_id)
        return MESSAGES.new("WaitProcessResponse", status=container.wait(request.exec_id))

    def _write_stdin(self, request: Message) -> Message:
        return MESSAGES.new("WriteStreamResponse", len=self._process(request).stdio.write(request.data))

    def _read_stdout(self, request: Message) -> Message:
        data = self._process(request).stdio.read(STDOUT, request.len)
        return MESSAGES.new("ReadStreamResponse", data=data)

    def _read_stderr(self, request: Message) -> Message:
        data = self._process(request).stdio.read(STDERR, request.len)
        return MESSAGES.new("ReadStreamResponse", data=data)

    def _read_termination_message(self, request: Message) -> Message:
        from sealpod.agent import lastwords

        path = self._sandbox.get(request.container_id).message
        return MESSAGES.new("ReadStreamResponse", data=lastwords.read(path, request.len))

    def _close_stdin(self, request: Message) -> None:
        self._process(request).stdio.close_stdin()

    def _tty_win_resize(self, request: Message) -> None:
        self._process(request).stdio.resize(request.row, request.column)

    def _exec_process(self, request: Message) -> None:
        if not self._sandbox.privileged:
            privileges.check(request.process)
        container = self._sandbox.get(request.container_id)
        container.run(request.exec_id, exec_document(container.directory, request), self._sandbox.creating)

    def _pause_container(self, request: Message) -> None:
        self._sandbox.get(request.container_id).pause()

    def _resume_container(self, request: Message) -> None:
        self._sandbox.get(request.container_id).resume()

    def _update_container(self, request: Message) -> None:
        resources = limits.resources(request.resources)
        self._sandbox.get(request.container_id).update(resources)

    def _stats_container(self, request: Message) -> Message:
        from sealpod.agent import stats

        self._sandbox.get(request.container_id)
        return stats.read(request.container_id)

    def _get_oom_event(self, request: Message) -> Message:
        return MESSAGES.new("OOMEvent", container_id=self._sandbox.oom.wait())

    def _get_metrics(self, request: Message) -> Message:
        from sealpod.agent import stats

        return MESSAGES.new("Metrics", metrics=stats.metrics(self._sandbox.count()))

    def _process(self, request: Message) -> Process:
        return self._sandbox.get(request.container_id).process(request.exec_id)


def exec_document(directory: str, request: Message) -> dict[str, Any]:
    """The OCI ``process`` for a request: the container's own, with what the request says instead.

    The container's environment stays; the request's is laid over it.
    """
    asked = request.process
    if not asked.Args:
        raise UsageError("there is no program to run", code="container.spec", remedy="name a command")
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
        own: dict[str, Any] = json.load(file)["process"]
    environment = dict(entry.partition("=")[::2] for entry in (*own["env"], *asked.Env))
    process = spec.Process(
        args=tuple(asked.Args),
        env=tuple(f"{name}={value}" for name, value in environment.items()),
        cwd=asked.Cwd if asked.Cwd and (asked.Cwd != "/" or spec.describes_all(asked)) else own["cwd"],
        **_user(request.string_user, own["user"], os.path.join(directory, "rootfs")),
    )
    document = spec.compose_process(asked, process)
    if not spec.describes_all(asked):
        names = ("capabilities", "noNewPrivileges", "rlimits", "oomScoreAdj")
        document |= {name: own[name] for name in names if name in own}
        if process.uid:
            document["capabilities"] |= {"effective": [], "permitted": []}
    return document


def _user(asked: Message, own: dict[str, Any], rootfs: str) -> dict[str, Any]:
    """Numbers; without any, the container's own user. A group that is not named is the image's to say."""
    if not asked.uid.isdecimal():
        return {"uid": own["uid"], "gid": own["gid"], "additional_gids": own.get("additionalGids", [])}
    uid, groups = int(asked.uid), [int(number) for number in asked.additionalGids if number.isdecimal()]
    if asked.gid.isdecimal():
        return {"uid": uid, "gid": int(asked.gid), "additional_gids": groups}
    if uid == own["uid"]:
        gid, others = own["gid"], own.get("additionalGids", [])
    else:
        from sealpod.image.runtime import resolve_user

        who = resolve_user(asked.uid, rootfs)
        gid, others = who.gid, (who.gid, *who.additional_gids)
    return {"uid": uid, "gid": gid, "additional_gids": [*dict.fromkeys((*others, *groups))]}

# SPDX-License-Identifier: Apache-2.0
"""The containers' methods of ``grpc.AgentService``: starting, signalling, waiting, streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sealpod.agent.container import Container
from sealpod.agent.sandbox import Sandbox
from sealpod.agent.stdio import STDERR, STDOUT
from sealpod.errors import NotFoundError, UsageError
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
            "CloseStdin": self._close_stdin,
        }

    def _start_container(self, request: Message) -> None:
        self._sandbox.get(request.container_id).start()

    def _remove_container(self, request: Message) -> None:
        self._sandbox.remove(request.container_id, float(request.timeout) or None)

    def _signal_process(self, request: Message) -> None:
        if not 0 <= request.signal <= SIGNALS:
            raise UsageError(f"{request.signal} is no signal", code="container.signal")
        if request.exec_id:
            self._process(request).kill(request.signal)
        else:
            self._sandbox.get(request.container_id).kill_all(request.signal)

    def _wait_process(self, request: Message) -> Message:
        return MESSAGES.new("WaitProcessResponse", status=self._process(request).wait())

    def _write_stdin(self, request: Message) -> Message:
        return MESSAGES.new("WriteStreamResponse", len=self._process(request).stdio.write(request.data))

    def _read_stdout(self, request: Message) -> Message:
        data = self._process(request).stdio.read(STDOUT, request.len)
        return MESSAGES.new("ReadStreamResponse", data=data)

    def _read_stderr(self, request: Message) -> Message:
        data = self._process(request).stdio.read(STDERR, request.len)
        return MESSAGES.new("ReadStreamResponse", data=data)

    def _close_stdin(self, request: Message) -> None:
        self._process(request).stdio.close_stdin()

    def _process(self, request: Message) -> Container:
        """The container whose first process is meant; there are no others, ExecProcess is not offered."""
        if request.exec_id not in ("", request.container_id):
            raise NotFoundError(f"no process {request.exec_id!r}", code="container.unknown")
        return self._sandbox.get(request.container_id)

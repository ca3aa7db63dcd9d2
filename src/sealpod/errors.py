# SPDX-License-Identifier: Apache-2.0
"""The one error tree. Who is at fault, a stable code, and what to do next.

::

    SealpodError                 root: everything sealpod raises on purpose
    ├── UsageError               the caller asked for something impossible            exit 2
    ├── DecodeError              bytes from outside are not what they claim to be     exit 1
    ├── OperationError           a step that should have worked did not               exit 1
    │   ├── LaunchError          the guest did not come up (carries phase, console)
    │   └── FirmwareError        an SEV command failed (carries the status number)
    ├── VerificationError        a signature, digest or MAC does not match            exit 3
    ├── RefusedError             a policy decided against it                          exit 3
    ├── NotFoundError            the named thing does not exist                       exit 4
    ├── ConflictError            it exists already, or was used already               exit 5
    ├── UnavailableError         a peer cannot be reached or does not answer          exit 6
    ├── AccessError              the operating system or the peer forbids it          exit 7
    ├── DeadlineError            it took longer than its limit                        exit 124
    └── InterruptError           the user stopped it (Ctrl-C)                         exit 130
        └── TerminateError       the system stopped it (SIGTERM)                      exit 143

A subclass names the fault; ``code`` names the reason (``area.reason``, lower case, stable across
releases); ``remedy`` says what the reader can do. The exit status comes from the class, so that a script
can tell the families apart without reading text. No error text may contain secret bytes.
"""

from __future__ import annotations

from typing import ClassVar


class SealpodError(Exception):
    """Root of all errors raised on purpose.

    ``message`` is one sentence without a final stop. ``code`` and ``remedy`` default to the class's.
    """

    exit_status: ClassVar[int] = 1
    default_code: ClassVar[str] = "internal.error"
    default_remedy: ClassVar[str] = ""

    def __init__(self, message: str, *, code: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.remedy = self.default_remedy if remedy is None else remedy

    def one_line(self) -> str:
        """The error as the command line prints it: cause, remedy, code, in one line."""
        text = " ".join(self.message.split())
        if self.remedy:
            text += f"; {' '.join(self.remedy.split())}"
        return f"{text} [{self.code}]"


class UsageError(SealpodError):
    """The caller asked for something that cannot be asked for."""

    exit_status = 2
    default_code = "usage.invalid"


class DecodeError(SealpodError):
    """Bytes from a file, image, registry, host or guest are malformed. Never raised for our own bugs."""

    default_code = "decode.malformed"


class OperationError(SealpodError):
    """A step that should have worked did not."""

    default_code = "operation.failed"


class LaunchError(OperationError):
    """The guest did not come up. ``phase`` names the launch phase, ``console`` holds its last lines."""

    default_code = "launch.failed"

    def __init__(
        self,
        message: str,
        *,
        phase: str = "",
        console: tuple[str, ...] = (),
        code: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, code=code, remedy=remedy)
        self.phase = phase
        self.console = console


class FirmwareError(OperationError):
    """An SEV firmware command failed. ``status`` is the number of AMD's SEV API, table of status codes."""

    default_code = "sev.firmware"

    def __init__(
        self, message: str, *, status: int, code: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(message, code=code, remedy=remedy)
        self.status = status


class VerificationError(SealpodError):
    """A signature, digest or MAC does not match: the thing is not what it claims to be."""

    exit_status = 3
    default_code = "verify.mismatch"


class RefusedError(SealpodError):
    """A policy decided against the request."""

    exit_status = 3
    default_code = "policy.refused"


class NotFoundError(SealpodError):
    """The named thing does not exist."""

    exit_status = 4
    default_code = "lookup.not-found"


class ConflictError(SealpodError):
    """The thing exists already, or may be used once and was."""

    exit_status = 5
    default_code = "state.conflict"


class UnavailableError(SealpodError):
    """A peer cannot be reached or does not answer."""

    exit_status = 6
    default_code = "peer.unavailable"


class AccessError(SealpodError):
    """The operating system or the peer forbids it."""

    exit_status = 7
    default_code = "access.denied"


class DeadlineError(SealpodError):
    """The step took longer than its limit."""

    exit_status = 124
    default_code = "time.exceeded"


class InterruptError(SealpodError):
    """The user stopped it; what it had begun was undone."""

    exit_status = 130
    default_code = "run.interrupted"
    default_remedy = "nothing was left behind, start it again"


class TerminateError(InterruptError):
    """The system stopped it with SIGTERM; what it had begun was undone."""

    exit_status = 143
    default_code = "run.terminated"

# SPDX-License-Identifier: Apache-2.0
"""Run the external programs of a build: same environment everywhere, their last words in the error."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

from sealpod.errors import DeadlineError, NotFoundError, OperationError

DEADLINE: Final = 900.0  # seconds; the longest step is a download over a slow line
LAST_LINES: Final = 6  # of a failed program's output, for the error text
PASSED_VARIABLES: Final = (
    "HOME",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)
PASSED_PREFIXES: Final = ("PIP_", "SSL_CERT_", "REQUESTS_")
"""Where to fetch from and through what is the machine's choice; everything else could change the bytes
built."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables a build's programs get."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_VARIABLES or name.startswith(PASSED_PREFIXES)
    }
    path = os.environ.get("PATH", os.defpath)
    return {**passed, "PATH": f"{path}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8", "TZ": "UTC", **(extra or {})}


def run(
    command: Sequence[str],
    *,
    cwd: str | None = None,
    extra: Mapping[str, str] | None = None,
    package: str = "",
    deadline: float = DEADLINE,
) -> str:
    """Run ``command`` and return its standard output.

    Raises :class:`NotFoundError` (``tool.missing``) naming the Debian ``package`` to install,
    :class:`OperationError` (``tool.failed``) with the program's last lines, or :class:`DeadlineError`.
    """
    program = os.path.basename(command[0])
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment(extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline,
            check=False,
        )
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{program} is not installed",
            code="tool.missing",
            remedy=f"install the package {package or program}",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DeadlineError(f"{program} took longer than {deadline:.0f} s", code="tool.deadline") from error
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise OperationError(
            f"{program} failed (status {done.returncode}): " + " | ".join(lines[-LAST_LINES:]),
            code="tool.failed",
        )
    return done.stdout

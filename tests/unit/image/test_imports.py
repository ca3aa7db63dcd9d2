# SPDX-License-Identifier: Apache-2.0
"""What a guest imports before it pulls: every module is read, compiled and run under emulation."""

from __future__ import annotations

import subprocess
import sys

# Needed by no step of a plain pull, or only by steps that import them where they are used.
HEAVY = (
    "asyncio",
    "cryptography",
    "logging",
    "pathlib",
    "shutil",
    "subprocess",
    "tarfile",
    "tempfile",
    "zstandard",
)


def test_a_pull_imports_nothing_heavy() -> None:
    program = (
        "import sys, sealpod.image.pull, sealpod.image.runtime, sealpod.registry.transports;"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []

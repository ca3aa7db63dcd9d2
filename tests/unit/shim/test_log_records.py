# SPDX-License-Identifier: Apache-2.0
"""What the process's loggers are told reaches containerd's log."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from sealpod.shim.log import Log


def test_warnings_are_said_and_lesser_records_only_when_debugging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # as in a shim
    monkeypatch.setattr(root, "level", root.level)
    os.mkfifo(tmp_path / "log")
    log = Log(str(tmp_path), "pod1")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        log.take_records()
        logging.getLogger("sealpod.test").info("not said")
        logging.getLogger("sealpod.test").warning("an unknown key %r", "kernel_param")
        assert os.read(reader, 4096) == b"sealpod pod1: an unknown key 'kernel_param'\n"
    finally:
        os.close(reader)
        log.close()

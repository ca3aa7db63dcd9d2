# SPDX-License-Identifier: Apache-2.0
"""Which KVM is taken: programs in QEMU's place stand for what machines do with the probe."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

from sealpod.qemu import acceleration
from sealpod.qemu.acceleration import choose_accelerator
from sealpod.qemu.binary import Qemu

# KVM interpreting what the processor cannot run by itself: it knows moves, output, halts and jumps.
INTERPRETER = f"""#!{sys.executable}
import sys
image = open(sys.argv[sys.argv.index("-bios") + 1], "rb").read()
at, register = 0xFFF0, 0
while True:
    code, operand = image[at], image[at + 1]
    if code == 0xB0:
        register = operand
    elif code == 0xE6:
        sys.exit(register << 1 | 1 if operand == 0xF4 else 0)
    else:
        sys.exit("KVM internal error. Suberror: 1")
    at += 2
"""
EMULATOR = """#!/bin/bash
words=("${@/accel=kvm/accel=tcg}")
exec qemu-system-x86_64 "${words[@]/host,pmu=off/qemu64}"
"""


@pytest.fixture(autouse=True)
def _accessible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(acceleration, "KVM_DEVICE", str(tmp_path / "kvm"))


def chosen(tmp_path: Path, text: str) -> str:
    program = tmp_path / "qemu"
    program.write_text(text)
    program.chmod(0o755)
    return asyncio.run(choose_accelerator(Qemu(str(program), (10, 0)), str(tmp_path / "cache")))[0]


def test_a_kvm_that_interprets_is_not_taken(tmp_path: Path) -> None:
    assert chosen(tmp_path, INTERPRETER) == "tcg"


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed")
def test_a_processor_that_runs_the_probe_is_taken(tmp_path: Path) -> None:
    assert chosen(tmp_path, EMULATOR) == "kvm"


def test_an_answer_to_another_probe_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(acceleration, "RESET_CODE", acceleration.RESET_CODE.removeprefix(b"\x9b"))
        assert chosen(tmp_path, INTERPRETER) == "kvm"
    assert chosen(tmp_path, INTERPRETER) == "tcg"

# SPDX-License-Identifier: Apache-2.0
"""Reading crun's log."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealpod.agent.runtime import failure, program, read_log
from sealpod.errors import AccessError, NotFoundError, OperationError


def test_the_last_message_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"msg":"first","level":"error"}\n{"msg":"last"}\nnot json\n[1]\n{"msg":5}\n')
    assert read_log(str(log)) == "last"


def test_no_log_no_message(tmp_path: Path) -> None:
    assert read_log(str(tmp_path / "none")) == ""
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 1000)
    assert read_log(str(tmp_path / "noise")) == ""


def test_a_missing_program_has_its_own_code() -> None:
    missing = failure("create", "executable file `x` not found in $PATH: No such file or directory")
    assert (type(missing), missing.code) == (NotFoundError, "container.command-not-found")
    refused = failure("exec", "open executable: Permission denied")
    assert (type(refused), refused.code) == (AccessError, "container.not-executable")
    assert refused.message == "the command cannot be run: Permission denied"
    newer = failure("exec", "the path `/etc` is not a regular file: Operation not permitted")
    assert (type(newer), newer.code) == (AccessError, "container.not-executable")
    assert newer.message == "the command cannot be run: the path `/etc` is not a regular file"
    newer = failure("create", "the path `/x` exists but it is not executable: Permission denied")
    assert newer.code == "container.not-executable"
    named = failure("create", "open executable: Too many levels of symbolic links", "sh")
    assert named.message == "the command 'sh' cannot be run: Too many levels of symbolic links"
    other = failure("start", "something")
    assert (type(other), other.code) == (OperationError, "container.start")
    assert other.message == "cannot start the container: something"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"process": {"args": ["sh", "-c"]}}', "sh"),
        ('{"args": ["cat"]}', "cat"),
        ('{"process": {"args": []}}', ""),
        ('{"process": null}', ""),
        ("[]", ""),
        ("{", ""),
    ],
)
def test_a_description_says_which_program(tmp_path: Path, text: str, name: str) -> None:
    described = tmp_path / "config.json"
    described.write_text(text)
    assert program(str(described)) == name
    assert program(str(tmp_path / "none")) == ""

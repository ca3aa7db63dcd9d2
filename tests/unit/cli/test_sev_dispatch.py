# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev``: every command is there, explains itself, and costs only its own imports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sealpod.cli import sev
from sealpod.cli.main import dispatch

# sevctl's, and what they have below them.
COMMANDS = {
    "export": (),
    "generate": (),
    "measurement": ("build",),
    "ok": (),
    "provision": (),
    "reset": (),
    "rotate": (),
    "secret": ("build",),
    "session": (),
    "show": (),
    "validate": (),
    "verify": (),
    "vmsa": ("build", "show", "update"),
    "cert": ("show", "split"),
}
LEAVES = [(name, *verb) for name, verbs in COMMANDS.items() for verb in ([(one,) for one in verbs] or [()])]


def help_of(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        dispatch(["sev", *words, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_the_commands_are_sevctls_and_cert(capsys: pytest.CaptureFixture[str]) -> None:
    assert {name for name, _, _ in sev.COMMANDS} == set(COMMANDS)
    shown = help_of(capsys=capsys)
    for name, _, text in sev.COMMANDS:
        assert re.search(rf"^    {name}\s", shown, re.MULTILINE)
        assert " ".join(text.split()) in " ".join(shown.split())


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(*words, capsys=capsys)
    assert re.search(r"-o( \{text,json\})?, --output \{text,json\}", shown)  # Python 3.13 says it once
    lines = shown.splitlines()
    assert lines[0].startswith(f"usage: sealpod sev {' '.join(words)} ")
    options = [line for line in lines if line.startswith("  -")]
    assert len(options) >= 2
    described = shown.partition("\n\n")[2].partition("\n\n")[0]
    assert described.strip().endswith(".")


@pytest.mark.parametrize(
    "words", [(), ("nothing",), ("vmsa",), ("vmsa", "nothing"), ("ok", "tdx"), ("show",)]
)
def test_wrong_usage_is_told_with_status_2(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        dispatch(["sev", *words])
    assert caught.value.code == 2
    assert "usage: sealpod sev" in capsys.readouterr().err


def imported(*words: str, directory: Path) -> set[str]:
    """The modules of sealpod and of packages it depends on that one run of the command imports."""
    script = (
        "import sys\n"
        "from sealpod.cli.main import dispatch\n"
        "try:\n    dispatch(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print('modules', *sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "sev", *words],
        capture_output=True, text=True, check=True, timeout=60, cwd=directory,
    )  # fmt: skip
    line = next(line for line in done.stdout.splitlines() if line.startswith("modules "))
    return {name for name in line.split()[1:] if name.startswith(("sealpod.", "cryptography", "asyncio"))}


def test_help_imports_no_command(tmp_path: Path) -> None:
    assert imported("--help", directory=tmp_path) == {
        "sealpod.cli", "sealpod.cli.main", "sealpod.cli.sev", "sealpod.errors",
    }  # fmt: skip


def test_a_command_imports_only_itself(tmp_path: Path) -> None:
    page = ("vmsa", "build", "page", "--cpu", "0", "--userspace", "qemu")
    found = imported(*page, directory=tmp_path)
    assert {name for name in found if name.startswith("sealpod.cli.sev_")} == {
        "sealpod.cli.sev_common", "sealpod.cli.sev_vmsa",
    }  # fmt: skip
    assert not {name for name in found if name.startswith(("cryptography", "asyncio", "sealpod.platform"))}
    shown = imported("ok", "--help", directory=tmp_path)
    assert not {name for name in shown if name.startswith(("cryptography", "asyncio", "sealpod.platform"))}


# --- ok ------------------------------------------------------------------------------------------------


def test_ok_draws_the_tree_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from sealpod.errors import OperationError
    from sealpod.platform import hostprobe

    class Intel:
        def cpuid(self, leaf: int) -> tuple[int, int, int, int]:
            names = [int.from_bytes(part, "little") for part in (b"Genu", b"ineI", b"ntel")]
            return (0x16, names[0], names[2], names[1]) if leaf == 0 else (0, 0, 0, 0)

        def open(self, path: str, mode: str) -> None:
            raise PermissionError(13, "Permission denied")

        def memlock(self) -> tuple[int, int]:
            return 8388608, 8388608

    monkeypatch.setattr(hostprobe, "RealHost", Intel)
    with pytest.raises(
        OperationError, match=r"^One or more tests in sevctl-ok reported a failure$"
    ) as caught:
        dispatch(["sev", "ok", "sev"])
    assert caught.value.exit_status == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "[ FAIL ] - AMD CPU",
        "[ SKIP ]   - Microcode support",
        "[ SKIP ]   - Secure Memory Encryption (SME)",
    ]
    assert "[ FAIL ] - KVM supported: Error reading /dev/kvm: (Permission denied (os error 13))" in lines
    assert "[ PASS ] - Memlock resource limit: Soft: 8388608 | Hard: 8388608" in lines
    todo = lines[lines.index("What to do:") + 1 :]
    assert [line.partition(":")[0] for line in todo] == [
        "- AMD CPU", "- KVM supported", "- Memlock resource limit",
    ]  # fmt: skip

    with pytest.raises(OperationError):
        dispatch(["sev", "ok", "-o", "json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["schemaVersion"], report["generation"], report["passed"]) == (1, "snp", False)
    first = report["tests"][0]
    assert (first["name"], first["state"], first["message"]) == ("AMD CPU", "FAIL", None)
    assert "GenuineIntel" in first["remedy"]
    assert first["tests"][2]["tests"][0]["name"] == "Encrypted State (SEV-ES)"

    assert dispatch(["sev", "-q", "ok"]) == 1
    assert capsys.readouterr() == ("", "")


def test_ok_has_colours_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sealpod.cli import sev_ok
    from sealpod.platform.hostcheck import Outcome

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = sev_ok._text((Outcome("a", "PASS", "", "", ()), Outcome("b", "FAIL", "m", "", ())))
    assert text == "[ \x1b[32mPASS\x1b[0m ] - a\n[ \x1b[31mFAIL\x1b[0m ] - b: m"

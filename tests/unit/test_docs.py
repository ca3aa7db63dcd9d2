# SPDX-License-Identifier: Apache-2.0
"""The documents say what the code does: error codes, commands, ranks, command-line parameters, links."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import sealpod
from sealpod import errors
from sealpod.agent import parameters
from sealpod.cli import main as cli
from sealpod.sandbox import cmdline
from sealpod.sev.status import Status
from sealpod.wire.status import to_status

PACKAGE = Path(sealpod.__file__).parent
ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
ERRORS = ROOT / "docs/reference/errors.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*(?:\.[a-z0-9]+(?:-[a-z0-9]+)*)+")
ROW = re.compile(r"^\| `([a-z0-9.-]+)` \|", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
MAX_LINE = 110
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# --- error codes ---------------------------------------------------------------------------------------


@functools.cache
def trees() -> tuple[ast.Module, ...]:
    return tuple(ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py"))


def constants(tree: ast.Module) -> dict[str, str]:
    """Names of the module that stand for a text."""
    found: dict[str, str] = {}
    for node in tree.body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            found[target.id] = value.value
    return found


def code_expressions(tree: ast.Module) -> Iterator[ast.expr]:
    """What is given as ``code``: keywords of calls, defaults of parameters, ``default_code`` of classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (keyword.value for keyword in node.keywords if keyword.arg == "code")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            yield from (value for argument, value in pairs if argument.arg == "code" and value is not None)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "default_code" for target in targets):
                yield node.value


def codes_in_source() -> set[str]:
    found = {status.error_code for status in Status if status is not Status.SUCCESS}
    return found.union(*map(codes_of, trees()))


def codes_of(tree: ast.Module) -> set[str]:
    names = constants(tree)
    found = set()
    for expression in code_expressions(tree):
        for node in ast.walk(expression):
            text = names.get(node.id, "") if isinstance(node, ast.Name) else ""
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            if CODE.fullmatch(text):
                found.add(text)
    return found


def composed_codes() -> list[re.Pattern[str]]:
    """Patterns of the codes put together at run time, such as ``chain.<link>``."""
    found = []
    for tree in trees():
        for expression in code_expressions(tree):
            for node in ast.walk(expression):
                if isinstance(node, ast.JoinedStr):
                    parts = (
                        re.escape(part.value)
                        if isinstance(part, ast.Constant) and isinstance(part.value, str)
                        else "[a-z-]+"
                        for part in node.values
                    )
                    found.append(re.compile("".join(parts)))
    return found


def documented_codes() -> list[str]:
    return ROW.findall(ERRORS.read_text(encoding="utf-8"))


def test_every_error_code_of_the_source_is_documented() -> None:
    missing = codes_in_source() - set(documented_codes())
    assert not missing, f"add to docs/reference/errors.md: {sorted(missing)}"


def test_every_documented_error_code_exists() -> None:
    texts = {
        node.value
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    } | codes_in_source()
    patterns = composed_codes()
    stale = [
        code
        for code in documented_codes()
        if code not in texts and not any(pattern.fullmatch(code) for pattern in patterns)
    ]
    assert not stale, f"remove from docs/reference/errors.md: {stale}"


def test_no_error_code_is_documented_twice() -> None:
    codes = documented_codes()
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("document", [ERRORS, ROOT / "docs/architecture.md"], ids=lambda path: path.name)
def test_every_error_family_is_documented_with_its_exit_status(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for name, family in vars(errors).items():
        if isinstance(family, type) and issubclass(family, errors.SealpodError):
            row = re.search(rf"^\| `{name}` \| (\d+) \|", text, re.MULTILINE)
            assert row is not None, f"{document.name} has no row for {name}"
            assert int(row.group(1)) == family.exit_status


# --- commands ------------------------------------------------------------------------------------------


def listed_commands(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert cli.dispatch(["--help"]) == 0
    listing = capsys.readouterr().out.partition("\ncommands:\n")[2].partition("\n\n")[0]
    return [line.split()[0] for line in listing.splitlines()]


def test_the_readme_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    commands = listed_commands(capsys)
    assert commands
    text = README.read_text(encoding="utf-8")
    missing = [name for name in commands if not re.search(rf"\bsealpod {name}\b", text)]
    assert not missing, f"README.md does not name: {missing}"


def shown_commands() -> list[list[str]]:
    """The words of every `sealpod` command in a shell block of a document."""
    found = []
    for document in DOCUMENTS:
        for language, block in FENCE.findall(document.read_text(encoding="utf-8")):
            if language == "sh":
                for line in block.replace("\\\n", " ").splitlines():
                    words = shlex.split(line, comments=True)
                    if words and words[0].rpartition("/")[2] == "sealpod":
                        found.append(words[1:])
    return found


def arguments(words: list[str]) -> list[str]:
    """A command's own words: what follows is a redirection, a pipe or the background."""
    end = next((at for at, word in enumerate(words) if word in ("&", "|", ">")), len(words))
    return words[:end]


def test_every_command_shown_can_be_typed() -> None:
    shown = shown_commands()
    assert shown
    modules = {name: module for name, module, _ in cli.COMMANDS}
    modules |= {" ".join(verb): module for verb, module in cli.VERBS.items()}
    for words in shown:
        name, rest = cli._split(arguments(words))
        parser = argparse.ArgumentParser(prog=f"sealpod {name}")
        importlib.import_module(modules[name]).add_arguments(parser)
        try:
            parser.parse_args(rest)
        except SystemExit as error:
            pytest.fail(f"the documents show a command that does not exist: {words} ({error})")


# --- architecture --------------------------------------------------------------------------------------


def test_the_architecture_lists_the_ranks_in_the_linters_order() -> None:
    with (ROOT / "pyproject.toml").open("rb") as source:
        contracts = tomllib.load(source)["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["type"] == "layers")
    wanted = [[name.strip().removeprefix("sealpod.") for name in layer.split("|")] for layer in layers]
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| ([^|]+) \|", text, re.MULTILINE)
    assert [re.findall(r"`([a-z.]+)`", row) for row in rows] == wanted


def test_the_failure_map_has_the_statuses_of_the_wire() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| \d+ \| (\d+) \|", text, re.MULTILINE)
    drawn = {name: int(number) for name, number in rows}
    for name, number in drawn.items():
        family = getattr(errors, name)
        assert to_status(family("x", status=0) if name == "FirmwareError" else family("x"))[0] == number


def test_every_dependency_is_weighed() -> None:
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    with (ROOT / "pyproject.toml").open("rb") as source:
        project = tomllib.load(source)["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    named = {re.split(r"[\[<>=!~ ]", one, maxsplit=1)[0] for group in groups for one in group} - {"sealpod"}
    missing = [name for name in sorted(named) if f"**{name}**" not in text]
    assert not missing, f"add to docs/dependencies.md: {missing}"


# --- the guest's command line --------------------------------------------------------------------------


def test_the_reference_names_every_parameter_of_the_guest() -> None:
    text = (ROOT / "docs/reference/kernel-command-line.md").read_text(encoding="utf-8")
    found = {
        node.value
        for node in ast.walk(ast.parse(Path(parameters.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and f"`agent.{node.value}" in text
    }
    assert found >= {"aa_kbc_params", "insecure_registries", "log", "enable_signature_verification"}
    assert re.search(r"```text\n" + re.escape("\n".join(cmdline.CONSTANTS)) + r"\n```", text)


def test_the_reference_shows_a_command_line_as_it_is_composed() -> None:
    text = (ROOT / "docs/reference/kernel-command-line.md").read_text(encoding="utf-8")
    settings = cmdline.GuestSettings(
        cpus=1, kbc="online", kbs="10.0.2.2:44444", insecure_registries=("10.0.2.2:5000",)
    )
    blocks = [" ".join(block.split()) for _, block in FENCE.findall(text)]
    assert cmdline.compose(settings) in blocks


# --- all documents -------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_inside_the_repository_leads_somewhere(document: Path) -> None:
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    targets = [target for target in LINK.findall(text) if "://" not in target]
    broken = [target for target in targets if not (document.parent / target).exists()]
    assert not broken, f"{document.name} links to what is not there: {broken}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lines_are_short_enough_to_read_anywhere(document: Path) -> None:
    text = FENCE.sub("", document.read_text(encoding="utf-8"))  # output is shown as it is
    long = [line for line in text.splitlines() if len(line) > MAX_LINE]
    assert not long, f"{document.name} has lines over {MAX_LINE} characters: {long}"


# --- the checks themselves -----------------------------------------------------------------------------


def test_codes_are_found_wherever_they_are_given() -> None:
    tree = ast.parse(
        "NAMED: Final = 'area.named'\n"
        "class E(Exception):\n"
        "    default_code = 'area.family'\n"
        "def fail(text, *, code='area.default'): ...\n"
        "raise E('x', code='area.literal')\n"
        "raise E('x', code=NAMED)\n"
        "raise E('x', code=found or 'area.choice')\n"
        "raise E('x', code=number)\n"
    )
    wanted = {"area.named", "area.family", "area.default", "area.literal", "area.choice"}
    assert codes_of(tree) == wanted
    assert ROW.findall("| `area.one` | means | do |\n| area.two | no code |\n") == ["area.one"]

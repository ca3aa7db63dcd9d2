# SPDX-License-Identifier: Apache-2.0
"""Sources become byte code, and nothing comes from outside their tree."""

from __future__ import annotations

import marshal
from pathlib import Path

import pytest

from sealpod.guestimage import compiletree

HEADER = 16  # bytes of a .pyc before its code object (PEP 552)


def test_sources_become_byte_code_named_as_in_the_guest(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/module.py").write_text("assert False\nvalue = 7\n")
    compiletree.main(str(tmp_path), "/usr/lib/guest")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["module.pyc"]
    code = marshal.loads((tmp_path / "package/module.pyc").read_bytes()[HEADER:])
    assert code.co_filename == "/usr/lib/guest/package/module.py"
    found: dict[str, object] = {}
    exec(code, found)
    assert found["value"] == 7


def test_a_link_to_a_file_of_the_builder_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "builder.py"
    outside.write_text("value = 1\n")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "hook.py").symlink_to(outside)
    with pytest.raises(ValueError, match=r"hook\.py is a link to"):
        compiletree.main(str(tree), "/usr/lib/guest")
    assert not (tree / "hook.pyc").exists()

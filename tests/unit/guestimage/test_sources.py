# SPDX-License-Identifier: Apache-2.0
"""Which modules go into the guest, and how a change of them is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealpod.errors import OperationError, SealpodError
from sealpod.guestimage import recipe, sources
from sealpod.guestimage.build import _wheel_names


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package ``sealpod`` to follow imports in."""
    texts = {
        "__init__.py": "",
        "errors.py": "import json",
        "agent/__init__.py": "",
        "agent/main.py": "from sealpod.wire import frames\nfrom . import tools\nfrom .tools import cut\n",
        "agent/tools.py": "def cut() -> None:\n    import tarfile\n    from sealpod import errors\n",
        "image/__init__.py": "",
        "kbc/__init__.py": "",
        "kbc/online.py": "import h2.connection\n",
        "registry/__init__.py": "",
        "wire/__init__.py": "",
        "wire/frames.py": "import typing\nif typing.TYPE_CHECKING:\n    import sealpod.cli.main, yaml\n",
        "wire/unused.py": "",
        "cli/main.py": "",
        "guestimage/__init__.py": "",
        "guestimage/data/init.sh": "",
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_imports_are_followed_wherever_they_stand(package: Path) -> None:
    found = sources.collect(str(package))
    assert "errors.py" in found.modules  # imported inside a function
    assert "wire/frames.py" in found.modules
    assert "agent/tools.py" in found.modules
    assert "wire/__init__.py" in found.modules
    assert "json" in found.standard
    assert "tarfile" in found.standard
    assert found.external == {"h2"}


def test_what_nobody_imports_stays_outside(package: Path) -> None:
    modules = sources.collect(str(package)).modules
    assert not {"wire/unused.py", "cli/main.py", "guestimage/__init__.py"} & set(modules)


def test_broken_source_is_named(package: Path) -> None:
    (package / "agent" / "main.py").write_text("def (\n")
    with pytest.raises(OperationError) as caught:
        sources.collect(str(package))
    assert caught.value.code == "guest.source"
    assert "agent/main.py" in caught.value.message


@pytest.mark.parametrize("path", ["agent/main.py", "wire/frames.py", "guestimage/data/init.sh", "kbc/new.py"])
def test_a_changed_or_new_file_is_noticed(package: Path, path: str) -> None:
    root = str(package)
    recorded = sources.digests(sources.collect(root).modules, root)
    assert sources.changed(recorded, root) is None
    (package / path).write_text("# changed\n")
    assert sources.changed(recorded, root) == path


def test_a_removed_file_is_noticed(package: Path) -> None:
    root = str(package)
    recorded = sources.digests(sources.collect(root).modules, root)
    (package / "agent" / "tools.py").unlink()
    assert sources.changed(recorded, root) == "agent/tools.py"


def test_files_that_do_not_matter(package: Path) -> None:
    root = str(package)
    recorded = sources.digests(sources.collect(root).modules, root)
    for name in ("wire/unused.py", "cli/main.py", "agent/.main.py.swp", "agent/main.py~", "agent/py.pyi"):
        (package / name).write_text("# changed\n")
    assert sources.changed(recorded, root) is None


def test_the_guests_code_imports_nothing_the_image_lacks() -> None:
    found = sources.collect()
    assert found.external <= recipe.WHEELS_OF.keys()
    assert "agent/__main__.py" in found.modules
    assert not [
        path for path in found.modules if path.startswith(("cli/", "guestimage/", "sandbox/", "qemu/"))
    ]


def test_an_unknown_import_is_refused() -> None:
    assert _wheel_names(frozenset({"cryptography"})) == {"cryptography", "cffi"}
    with pytest.raises(SealpodError) as caught:
        _wheel_names(frozenset({"yaml"}))
    assert caught.value.code == "guest.import"

# SPDX-License-Identifier: Apache-2.0
"""Write requirements/dev.txt: the newest versions pyproject.toml allows, with the hashes of their wheels.

Run by hand when dependencies are to move, with the virtual environment's Python: ``.venv/bin/python
scripts/lock.py``. pip resolves for the oldest interpreter, then every supported one's wheels of these
versions are hashed, so that one file serves all. The file names no index: pip's own configuration chooses
it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "requirements" / "dev.txt"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = (
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_34_x86_64",
)
BUILD = ("setuptools>=77",)
"""What building the project itself needs; not among its dependencies."""

HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# Everything `make setup` installs, pinned; written by scripts/lock.py.
"""


def pip(*arguments: str) -> None:
    """Run this environment's pip."""
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def wanted() -> list[str]:
    """The requirements of the project and of all its extras, without the project itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    names = [*project["dependencies"], *extras, *BUILD]
    return sorted({name for name in names if not name.startswith(f"{project['name']}[")})


def resolve(requirements: list[str]) -> dict[str, str]:
    """Version by name of the whole closure."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        pip("install", "--dry-run", "--ignore-installed", "--quiet", "--report", report.name, *requirements)
        installed = json.loads(Path(report.name).read_text())["install"]
    found = {
        item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"] for item in installed
    }
    return dict(sorted(found.items()))


def hashes(versions: dict[str, str], directory: str) -> dict[str, set[str]]:
    """SHA-256 of the wheels of each package, for all interpreters."""
    found: dict[str, set[str]] = {name: set() for name in versions}

    def fetch(job: tuple[str, str]) -> tuple[str, set[str]]:
        name, python = job
        place = Path(directory, python, name)
        platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
        pip(
            *("download", "--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", python),
            *(*platforms, "--dest", str(place), f"{name}=={versions[name]}"),
        )
        return name, {file_digest(path.open("rb"), "sha256").hexdigest() for path in place.iterdir()}

    with ThreadPoolExecutor(2) as pool:
        for name, digests in pool.map(fetch, [(name, python) for name in versions for python in PYTHONS]):
            found[name] |= digests
    return found


def main() -> None:
    """Resolve, hash, write."""
    versions = resolve(wanted())
    with tempfile.TemporaryDirectory() as directory:
        found = hashes(versions, directory)
    lines = [
        f"{name}=={version}" + "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(found[name]))
        for name, version in versions.items()
    ]
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

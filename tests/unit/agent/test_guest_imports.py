# SPDX-License-Identifier: Apache-2.0
"""What runs in the guest imports only what the guest has, and starts with little of it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import sealpod

SOURCE = Path(sealpod.__file__).parent.parent
PACKAGES = ("agent", "kbc", "image", "ocicrypt", "oci", "wire", "registry", "secret", "errors")
THIRD_PARTY = ("cryptography", "h2", "hpack", "hyperframe", "_cffi_backend", "cffi")
HEAVY = (
    "asyncio", "cryptography", "google", "h2", "http.client", "logging", "multiprocessing", "pathlib", "ssl",
    "subprocess", "tarfile", "tempfile", "urllib.request", "email", "ctypes",
)  # fmt: skip

# Runs with no site-packages at all: what is not of the standard library comes through the gate or not at all.
GATE = """
import importlib, importlib.machinery, pkgutil, sys

source, places, allowed = sys.argv[1], sys.argv[2].split(":"), set(sys.argv[3].split(","))
sys.path.insert(0, source)

class Gate:  # importlib.abc has a base for it, and from Python 3.12 on imports inspect
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in allowed and path is None:
            return importlib.machinery.PathFinder.find_spec(name, places)
        if top in sys.stdlib_module_names or top in allowed or top == "sealpod":
            return None
        raise ImportError(f"{name} is not in the guest")

sys.meta_path.insert(0, Gate())
"""
EVERYTHING = (
    GATE
    + """
names = []
for package in sys.argv[4].split(","):
    module = importlib.import_module(f"sealpod.{package}")
    names.append(module.__name__)
    names += [m.name for m in pkgutil.walk_packages(getattr(module, "__path__", ()), module.__name__ + ".")]
for name in names:
    if not name.startswith("sealpod.wire.pb"):
        importlib.import_module(name)
print(len(names))
"""
)
START = (
    GATE
    + """
before = set(sys.modules)
importlib.import_module("sealpod.agent.__main__")
print(",".join(set(sys.modules) - before))
"""
)
PULL = (
    GATE
    + """
from sealpod.agent import lighthttp
lighthttp.load()
lighthttp.load()
from sealpod.image import pull, runtime
from sealpod.registry import transports
from sealpod.kbc import offline, online, table
print(",".join(sys.modules))
import ssl
print(ssl.OPENSSL_VERSION)
"""
)
# Each was measured: what it costs an emulated guest is a noticeable part of a pod's start.
DEAR = ("ssl", "_hashlib", "hashlib", "dataclasses", "inspect", "tarfile", "asyncio", "cryptography", "h2")


def run(script: str, *arguments: str) -> str:
    places = {
        str(Path(spec.origin).parent.parent)
        for name in ("cryptography", "h2")
        if (spec := importlib.util.find_spec(name)) is not None and spec.origin
    }
    command = [sys.executable, "-I", "-S", "-c", script, str(SOURCE), ":".join(places), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_module_imports_with_the_guest_extra_alone() -> None:
    count = int(run(EVERYTHING, ",".join(THIRD_PARTY), ",".join(PACKAGES)))
    assert count > 40


def test_the_agent_starts_without_the_heavy_modules() -> None:
    loaded = set(run(START, ",".join(THIRD_PARTY)).strip().split(","))
    assert "sealpod.agent.service" in loaded
    assert loaded.isdisjoint(HEAVY), sorted(loaded.intersection(HEAVY))


def test_what_a_pull_needs_is_loaded_without_the_dear_modules_and_tls_can_be_loaded_later() -> None:
    loaded, version = run(PULL, ",".join(THIRD_PARTY)).splitlines()
    assert "http.client" in loaded.split(",")
    assert set(loaded.split(",")).isdisjoint(DEAR)
    assert "OpenSSL" in version


def test_help_names_what_this_is() -> None:
    command = [sys.executable, "-m", "sealpod.agent", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, "PID 1" in result.stdout) == (0, True)
    assert subprocess.run(command[:-1], capture_output=True, check=False).returncode == 2

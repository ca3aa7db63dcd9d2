# SPDX-License-Identifier: Apache-2.0
"""Termination messages: which mount they lie in, when they are brought, what may be written to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from podkit import Bench

from sealpod.errors import OperationError
from sealpod.shim import lastwords
from sealpod.shim.lastwords import USUAL, Place, find
from sealpod.wire.agentapi import TERMINATION_LOG


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"type": "bind", "source": str(source), "destination": destination, "options": ["rbind", *options]}


def kubelets(tmp_path: Path, name: str = "0123abcd") -> Path:
    """The file kubelet makes for one run of a container."""
    path = tmp_path / "pods/5a1c/containers/app" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_mount_is_found_by_place_or_by_kubelets_path(tmp_path: Path) -> None:
    file, plain = kubelets(tmp_path), tmp_path / "plain"
    plain.touch()
    assert find([bind(plain, "/etc/hosts"), bind(file, "/var/why", "rw")]) == Place("/var/why", str(file))
    assert find([bind(plain, USUAL)]) == Place(USUAL, str(plain))


def test_other_mounts_are_not_written_to(tmp_path: Path) -> None:
    file, plain = kubelets(tmp_path), tmp_path / "plain"
    plain.touch()
    link = kubelets(tmp_path, "fedcba98")
    link.unlink()
    link.symlink_to(plain)
    other = tmp_path / "pods/5a1c/volumes/kubernetes.io~secret/0123abcd"
    other.parent.mkdir(parents=True)
    other.touch()
    tmpfs = {"type": "tmpfs", "source": "tmpfs", "destination": USUAL, "options": []}
    for mount in (
        bind(file, "/why", "ro"),
        bind(link, "/why"),
        bind(other, "/why"),
        bind(tmp_path, USUAL),
        bind(tmp_path / "absent", USUAL),
        bind(plain, "/etc/hosts"),
        tmpfs,
        {},
    ):
        assert find([mount]) is None


def run_to_its_end(tmp_path: Path, message: bytes | None, file: Path, *, end: bool = True) -> Bench:
    """A container with that file for its last words, which the guest then has or does not give."""

    async def scenario() -> Bench:
        bench = Bench(tmp_path)
        seen: list[bytes] = []

        def edit(config: dict[str, Any]) -> None:
            config["mounts"] = [bind(file, USUAL)]

        publish = bench.events.publish

        def watched(name: str, event: Any) -> None:
            if name == "TaskExit":
                seen.append(file.read_bytes())
            publish(name, event)

        bench.events.publish = watched  # type: ignore[method-assign]
        await bench.run("pod", "sandbox")
        bench.guest.last_words = message
        await bench.run("one", "container", edit=edit)
        (created,) = bench.guest.named("CreateContainer")
        assert created.OCI.Annotations[TERMINATION_LOG] == USUAL
        if end:
            await bench.guest.process("one").exit(4)
        else:
            assert bench.machine is not None
            bench.machine.crash("killed")
        await bench.call("Wait", id="one")
        await bench.service.close()
        assert seen[0] == file.read_bytes(), "the end was told before the file was there"
        return bench

    return asyncio.run(scenario())


def test_it_is_there_before_the_end_is_told(tmp_path: Path) -> None:
    file = kubelets(tmp_path)
    file.write_bytes(b"longer than what comes")
    run_to_its_end(tmp_path, b"out of luck", file)
    assert file.read_bytes() == b"out of luck"


@pytest.mark.parametrize("message", [b"", None])
def test_without_one_the_file_stays(tmp_path: Path, message: bytes | None) -> None:
    file = kubelets(tmp_path)
    bench = run_to_its_end(tmp_path, message, file)
    assert file.read_bytes() == b""
    assert ("one", 4) in bench.events.exits()


def test_of_a_guest_that_died_the_host_says_why(tmp_path: Path) -> None:
    file = kubelets(tmp_path)
    bench = run_to_its_end(tmp_path, b"never asked for", file, end=False)
    assert file.read_bytes() == b"the pod's guest is gone: killed [shim.no-guest]"
    assert ("one", 137) in bench.events.exits()


def test_what_is_there_is_not_replaced_by_a_reason(tmp_path: Path) -> None:
    file = kubelets(tmp_path)
    lastwords.leave(str(file), "y" * 5000)
    assert file.read_bytes() == b"y" * 4096
    lastwords.leave(str(file), "another")
    lastwords.leave(str(tmp_path / "none"), "another")
    assert file.read_bytes() == b"y" * 4096
    assert not (tmp_path / "none").exists()


def test_a_guest_that_says_more_than_allowed_is_cut(tmp_path: Path) -> None:
    file = kubelets(tmp_path)
    run_to_its_end(tmp_path, b"x" * 5000 + b"end", file)
    assert file.read_bytes() == b"x" * 4093 + b"end"


def test_what_took_the_files_place_is_not_written_to(tmp_path: Path) -> None:
    file, victim = kubelets(tmp_path), tmp_path / "victim"
    victim.write_bytes(b"kept")
    file.unlink()
    file.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        lastwords.write(str(file), b"x")
    file.unlink()
    os.mkfifo(file)
    reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    lastwords.write(str(file), b"x")
    assert os.read(reader, 10) == b""
    os.close(reader)
    assert victim.read_bytes() == b"kept"


def test_an_agent_without_the_call_is_no_error() -> None:
    class Agent:
        async def call(self, *_: Any, **__: Any) -> bytes:
            raise OperationError("method ReadTerminationMessage")

    asyncio.run(lastwords.bring(Agent(), "one", "/none"))  # type: ignore[arg-type]

# SPDX-License-Identifier: Apache-2.0
"""Whatever breaks, at whatever moment: one line that says why, a status that says whose fault, nothing left.

An early moment costs a second, one with a booted guest a boot. So both signals are sent at every early phase,
and one of the two at each late one; what does not need a guest of its own shares one in test_guest.py.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandkit import Finished
from labkit import Lab, phase, qemu_script, serving

from sealpod.cli.progress import PHASES

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("clean")]
QEMU = "qemu-system-x86_64"
MODEL = "sealpod.platform.model"
EARLY = ("inputs", "bundle", "start", "measure", "attest", "inject", "boot")
LATE = ("sandbox", "pull", "run", "stop")
READY = "container: ready"
STOPPED = {signal.SIGINT: "run.interrupted", signal.SIGTERM: "run.terminated"}


@pytest.fixture
def silent_port() -> Iterator[str]:
    """HOST:PORT that belongs to somebody who does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def ready(*words: str) -> tuple[str, ...]:
    """A container that says :data:`READY` on standard error and then runs ``words``."""
    return ("sh", "-c", f"echo {READY} >&2; {' '.join(words)}")


def assert_stopped(done: Finished, when: str, number: signal.Signals) -> None:
    """The status a shell expects, and a line that names the phase the signal came in (or the next ones)."""
    assert (done.status, done.error()["code"]) == (128 + number, STOPPED[number])
    begun = [text for text in PHASES.values() if text in done.error()["cause"]]
    assert begun, done.stderr
    assert list(PHASES.values()).index(begun[0]) >= list(PHASES).index(when)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", EARLY)
def test_a_signal_while_the_guest_comes_up(lab: Lab, when: str, number: signal.Signals) -> None:
    with lab.start(lab.image("encrypted"), kbc="offline") as command:
        command.until(phase(when))
        command.send(number)
        done = command.finish()
    assert_stopped(done, when, number)


@pytest.mark.parametrize("when", LATE)
def test_ctrl_c_while_the_guest_runs(lab: Lab, when: str) -> None:
    work = "exit 0" if when == "stop" else "sleep 1000"
    with lab.start(lab.image("plain"), *ready(work)) as command:
        command.until(phase(when))
        if when == "run":
            command.until(READY)
        command.send(signal.SIGINT)
        done = command.finish()
    if when == "stop" and done.status == 0:
        return  # it was faster than the signal
    assert_stopped(done, when, signal.SIGINT)


def test_a_signal_while_a_platform_makes_its_keys(lab: Lab, tmp_path: Path) -> None:
    options = {"platform-state": str(tmp_path / "new")}
    with lab.start(lab.image("plain"), **options) as command:
        command.until("creating")
        command.send(signal.SIGINT)
        done = command.finish()
    assert (done.status, done.error()["code"]) == (130, "run.interrupted")
    assert os.listdir(tmp_path / "new") == ["lock"]


def test_an_impatient_user(lab: Lab) -> None:
    with lab.start(lab.image("plain")) as command:
        command.until(phase("boot"))
        for _ in range(3):
            command.send(signal.SIGINT)
        done = command.finish()
    assert_stopped(done, "boot", signal.SIGINT)


def test_sealpod_killed(lab: Lab) -> None:
    with lab.start(lab.image("plain")) as command:
        command.until(phase("boot"))
        assert lab.place.find(QEMU)
        assert lab.place.find(MODEL)
        command.send(signal.SIGKILL)
        assert command.finish().status == -signal.SIGKILL
    lab.place.await_end()


def test_qemu_killed_while_it_boots(lab: Lab) -> None:
    with lab.start(lab.image("plain")) as command:
        command.until(phase("boot"))
        os.kill(lab.place.find(QEMU), signal.SIGKILL)
        done = command.finish()
    assert (done.status, done.error()["code"]) == (1, "launch.ended")
    assert "QEMU ended with status -9" in done.error()["cause"]


def test_qemu_killed_while_the_container_runs(lab: Lab) -> None:
    with lab.start(lab.image("plain"), *ready("sleep 1000")) as command:
        command.until(READY)
        os.kill(lab.place.find(QEMU), signal.SIGKILL)
        done = command.finish()
    assert (done.status, done.error()["code"]) == (1, "guest.ended")


def test_qemu_that_does_not_start(lab: Lab, tmp_path: Path) -> None:
    qemu = qemu_script(tmp_path / "qemu", before="sys.exit('no luck today')")
    done = lab.run(lab.image("plain"), qemu=qemu)
    assert (done.status, done.error()["code"]) == (1, "launch.qemu")
    assert "no luck today" in done.error()["cause"]


def test_the_firmware_process_killed(lab: Lab, tmp_path: Path) -> None:
    # QEMU's parent is sealpod, and so is the model's.
    kill = (
        "[os.kill(int(p), signal.SIGKILL) for p in "
        "open(f'/proc/{os.getppid()}/task/{os.getppid()}/children').read().split() "
        f"if {MODEL!r} in open(f'/proc/{{p}}/cmdline').read()]"
    )
    done = lab.run(lab.image("plain"), qemu=qemu_script(tmp_path / "qemu", before=kill))
    assert (done.status, done.error()["code"]) == (6, "platform.died")


def test_no_broker(lab: Lab, silent_port: str) -> None:
    done = lab.run(lab.image("encrypted"), kbc="offline", kbs=silent_port)
    assert (done.status, done.error()["code"]) == (6, "kbs.unreachable")
    assert silent_port in done.error()["cause"]


def test_the_broker_killed_between_bundle_and_secret(lab: Lab, tmp_path: Path) -> None:
    with serving(lab.place, tmp_path / "kbs.db", "--trust-ark", lab.ark) as (broker, address):
        qemu = qemu_script(tmp_path / "qemu", before=f"os.kill({broker.pid}, signal.SIGKILL)")
        done = lab.run(lab.image("encrypted"), kbc="offline", kbs=address, qemu=qemu)
    assert phase("attest") in done.stderr
    assert (done.status, done.error()["code"]) == (6, "kbs.unreachable")


def test_no_registry(lab: Lab, silent_port: str) -> None:
    done = lab.run(f"{silent_port}/app:plain")
    assert (done.status, done.error()["code"]) == (6, "registry.unreachable")
    assert done.stdout == b""


def test_an_encrypted_image_without_a_broker(lab: Lab) -> None:
    done = lab.run(lab.image("encrypted"))
    assert (done.status, done.error()["code"]) == (2, "kbc.none")
    assert done.stdout == b""


@pytest.mark.parametrize("part", ["firmware", "kernel", "initrd"])
def test_a_file_that_is_not_there(lab: Lab, tmp_path: Path, part: str) -> None:
    done = lab.run(lab.image("plain"), **{part: str(tmp_path / "nothing")})
    assert (done.status, done.error()["code"]) == (4, "guest.missing")


def test_a_firmware_without_room_for_hashes(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "code.fd").write_bytes(bytes(1 << 20))
    done = lab.run(lab.image("plain"), firmware=str(tmp_path / "code.fd"))
    assert (done.status, done.error()["code"]) == (1, "firmware.unfit")

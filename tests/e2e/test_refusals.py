# SPDX-License-Identifier: Apache-2.0
"""What is not what the guest owner agreed to does not get the key, or does not even start.

What the broker refuses by its protocol alone (replayed launch ids, changed measurements, truncated chains,
other policies, unknown clients) is held in tests/contract/kbs. Here real files differ by one byte.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labkit import Lab, phase, qemu_script, serving

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("clean")]
HALT_SECONDS = 30.0
REFUSED = 3


@pytest.fixture(scope="module")
def reference(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The owner's record of the launch they agreed to."""
    path = tmp_path_factory.mktemp("owner") / "reference.json"
    path.write_text(lab.reference(lab.image("encrypted"), "offline"))
    return str(path)


def flipped(source: str, target: Path) -> str:
    """A copy of a file with one bit changed, in its middle."""
    data = bytearray(Path(source).read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    return str(target)


@pytest.fixture(params=["firmware", "kernel", "initrd", "command line"])
def changed(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The part that differs, and the options of a launch with it."""
    part = request.param
    if part == "command line":
        yield part, {"append": "x"}
    else:
        yield part, {part: flipped(getattr(lab.files, part), tmp_path / part)}


def test_one_changed_byte_is_refused_by_the_broker(
    lab: Lab, reference: str, changed: tuple[str, dict[str, str]]
) -> None:
    part, options = changed
    done = lab.run(lab.image("encrypted"), kbc="offline", reference=reference, **options)
    assert done.status == REFUSED
    assert done.error()["code"] == "policy.digest"
    assert "fw digest not valid" in done.error()["cause"]
    assert f"differs from the reference | {part}: " in done.stderr
    # It was measured and never ran.
    assert phase("attest") in done.stderr
    assert phase("boot") not in done.stderr
    assert done.stdout == b""


def test_an_attested_guest_of_another_digest_gets_no_key_online(lab: Lab) -> None:
    # A connection is given to any guest on a trusted platform; the key's own policy decides about the key.
    done = lab.run(lab.image("encrypted"), kbc="online", append="x")
    assert done.status == REFUSED
    assert done.error()["code"] == "policy.digest"
    assert phase("run") not in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize("part", ["kernel", "initrd", "command line"])
def test_the_firmware_halts_what_was_swapped_after_hashing(lab: Lab, tmp_path: Path, part: str) -> None:
    if part == "command line":
        swapped = {"panic=1": "panic=2"}
    else:
        path: str = getattr(lab.files, part)
        swapped = {path: flipped(path, tmp_path / part)}
    qemu = qemu_script(tmp_path / "qemu", replace=swapped)
    with lab.start(lab.image("plain"), qemu=qemu) as command:
        command.until(phase("boot"))
        begin = time.monotonic()
        done = command.finish()
    assert time.monotonic() - begin < HALT_SECONDS
    assert done.status == 1
    assert done.error()["code"] == "launch.firmware-halted"
    # Neither kernel nor init said a word.
    assert "console |" not in done.stderr


def test_a_platform_nobody_vouched_for(lab: Lab, tmp_path: Path) -> None:
    with serving(lab.place, tmp_path / "kbs.db") as (_, address):
        done = lab.run(lab.image("encrypted"), kbc="offline", kbs=address)
    assert done.status == REFUSED
    assert done.error()["code"] == "chain.untrusted-root"
    assert lab.ark in done.error()["cause"]
    assert phase("start") not in done.stderr


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (("--allow-policy", "1"), "policy.sev-policy"),
        (("--min-api", "99.0"), "policy.api-major"),
        (("--build-id", "255"), "policy.build-id"),
    ],
)
def test_a_rule_the_launch_does_not_meet(lab: Lab, rule: tuple[str, ...], code: str) -> None:
    lab.broker_set("policy", "set", "strict", *rule)
    lab.broker_set("keyset", "set", "STRICT", "--secret", "wrong", "--policy", "strict")
    done = lab.run(lab.image("encrypted"), kbc="offline", keyset="STRICT")
    assert (done.status, done.error()["code"]) == (REFUSED, code)
    assert phase("boot") not in done.stderr


def test_a_keyset_nobody_made(lab: Lab) -> None:
    done = lab.run(lab.image("encrypted"), kbc="offline", keyset="NO-SUCH-SET")
    assert (done.status, done.error()["code"]) == (REFUSED, "keyset.unknown")

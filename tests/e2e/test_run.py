# SPDX-License-Identifier: Apache-2.0
"""A container in a guest looks like a local command, by streams and status, and sees nothing of the host.

One guest shows all of it, because a boot is what costs time.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from commandkit import Finished
from labkit import Lab

pytestmark = pytest.mark.e2e
LINES = 200_000
"""Numbers written to standard output: 1.3 MB, in hundreds of reads."""
SCRIPT = f"""\
fact() {{ echo "container: $1=$2" >&2; }}
seq 1 {LINES}
fact pid $$
fact processes "$(ls /proc | grep -c '^[0-9]')"
fact hostname "$(hostname)"
fact user "$(id -u):$(id -g)"
fact planted "$PLANTED"
fact argument "$0"
fact place "$(ls -d $1 2>/dev/null)"
fact kernel "$(cat /proc/sys/kernel/random/boot_id)"
fact modules "$(touch /proc/sys/kernel/x 2>/dev/null && echo writable)"
exit 7
"""
AWKWARD = "two words; $HOME 'quoted' é"


@pytest.fixture(scope="module")
def done(lab: Lab) -> Iterator[Finished]:
    lab.place.environment["PLANTED"] = "of the host"
    with lab.place.unchanged():
        yield lab.run(lab.image("user"), "sh", "-c", SCRIPT, AWKWARD, str(lab.place.root))
    del lab.place.environment["PLANTED"]


@pytest.fixture
def facts(done: Finished) -> dict[str, str]:
    """What the container said of itself."""
    return dict(re.findall(r"^container: (\w+)=(.*)$", done.stderr, re.MULTILINE))


def test_its_status_is_ours(done: Finished) -> None:
    assert done.status == 7, done.stderr
    assert not done.verdict


def test_all_of_its_output_and_nothing_else(done: Finished) -> None:
    assert done.stdout == b"".join(b"%d\n" % number for number in range(1, LINES + 1))


def test_arguments_arrive_as_they_were_given(facts: dict[str, str]) -> None:
    assert facts["argument"] == AWKWARD


def test_it_is_the_user_its_image_names(facts: dict[str, str]) -> None:
    assert facts["user"] == "1234:2345"


def test_it_is_alone(facts: dict[str, str]) -> None:
    assert facts["pid"] == "1"
    # The shell, and the pipeline that counts.
    assert 1 <= int(facts["processes"]) <= 4


def test_it_sees_nothing_of_the_host(lab: Lab, facts: dict[str, str]) -> None:
    assert facts["hostname"] != socket.gethostname()
    assert facts["planted"] == ""
    assert facts["place"] == ""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
        assert facts["kernel"] not in ("", source.read().strip())


def test_it_cannot_change_its_kernel(facts: dict[str, str]) -> None:
    assert facts["modules"] == ""

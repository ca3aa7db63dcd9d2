# SPDX-License-Identifier: Apache-2.0
"""containerd's command lines, as recorded and as its newer versions will write them."""

from __future__ import annotations

import pytest

from sealpod.shim.arguments import Arguments, parse, runtime_of

START = "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd -id t1 start"
COMMON = Arguments(namespace="default", address="/run/c.sock", publish_binary="/usr/bin/containerd", id="t1")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (START, COMMON._replace(action="start")),
        (START.replace(" -", " --").replace("-namespace", "--namespace", 1), COMMON._replace(action="start")),
        (START.replace("-id t1", "-id=t1"), COMMON._replace(action="start")),
        (START.replace("start", "-debug start"), COMMON._replace(action="start", debug=True)),
        (START.replace("start", "-debug=true start"), COMMON._replace(action="start", debug=True)),
        (START.replace("start", "-debug=false start"), COMMON._replace(action="start")),
        (START.replace("start", "-bundle /b delete"), COMMON._replace(action="delete", bundle="/b")),
        (START.replace("start", "-debug-socket /d.sock start"), COMMON._replace(action="start")),
        (START.replace("start", "-debug-socket=/d.sock start"), COMMON._replace(action="start")),
        (START.replace("start", "-some-switch start"), COMMON._replace(action="start")),
        (START.replace("-id", "-some-switch -id"), COMMON._replace(action="start")),
        (START.replace("start", "-- start"), COMMON._replace(action="start")),
        ("-action x -version start", Arguments(action="start", version=True)),
        ("-v", Arguments(version=True)),
        ("--info", Arguments(info=True)),
        ("-id a= start", Arguments(id="a=", action="start")),
        ("-id= start", Arguments(action="start")),
        ("start -id late", Arguments(action="start")),
        ("", Arguments()),
        ("-socket /s -runtime kata-qemu -id a", Arguments(socket="/s", runtime="kata-qemu", id="a")),
    ],
)
def test_lines(line: str, expected: Arguments) -> None:
    assert parse(line.split()) == expected


def test_an_id_may_begin_with_a_dash() -> None:
    assert parse(["-id", "-start", "start"]) == Arguments(id="-start", action="start")


def test_a_flag_without_its_value_is_refused() -> None:
    with pytest.raises(ValueError, match="-id"):
        parse(["-namespace", "default", "-id"])


@pytest.mark.parametrize(
    ("program", "runtime"),
    [
        ("containerd-shim-kata-v2", "kata"),
        ("/usr/local/bin/containerd-shim-kata-qemu-v2", "kata-qemu"),
        ("/opt/x/containerd-shim-kata-qemu-sev-v2", "kata-qemu-sev"),
        ("./containerd-shim-other-v2", "kata"),
        ("", "kata"),
    ],
)
def test_the_program_names_the_runtime(program: str, runtime: str) -> None:
    assert runtime_of(program) == runtime

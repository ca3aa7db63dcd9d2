# SPDX-License-Identifier: Apache-2.0
"""What to run, and as whom."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sealpod.errors import DecodeError, NotFoundError, UsageError
from sealpod.image.runtime import DEFAULT_PATH, ResolvedUser, resolve_process, resolve_user
from sealpod.oci.config import ImageConfig

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
app:x:1000:1000:App:/home/app:/bin/sh
# comment
broken
:x:5:5:::
homeless:x:1001:100:::
"""
GROUP = """\
root:x:0:
users:x:100:app,other
audio:x:29:app
app:x:1000:app
"""


@pytest.fixture
def rootfs(tmp_path: Path) -> str:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return str(tmp_path)


CONFIG = ImageConfig(
    entrypoint=("/entry",), cmd=("default",), env=("A=image", "B=image"), working_dir="/srv", user="app"
)

COMMANDS = [
    ((), (), ("/entry", "default")),
    ((), ("x", "y"), ("/entry", "x", "y")),
    (("/other",), (), ("/other",)),
    (("/other",), ("x",), ("/other", "x")),
]


@pytest.mark.parametrize(("command", "args", "expected"), COMMANDS)
def test_commands(
    command: tuple[str, ...], args: tuple[str, ...], expected: tuple[str, ...], rootfs: str
) -> None:
    assert resolve_process(CONFIG, rootfs, command=command, args=args).args == expected


def test_nothing_to_run(rootfs: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_process(ImageConfig(), rootfs)
    assert caught.value.code == "image.no-command"


def test_environment(rootfs: str) -> None:
    process = resolve_process(CONFIG, rootfs, env=("B=call=x", "C="))
    assert process.env == (f"PATH={DEFAULT_PATH}", "HOME=/home/app", "A=image", "B=call=x", "C=")
    assert resolve_process(ImageConfig(cmd=("x",), env=("PATH=/own",)), rootfs).env[0] == "PATH=/own"


@pytest.mark.parametrize(
    ("given", "image", "expected"), [("", "", "/"), ("", "srv", "/srv"), ("/a", "/b", "/a")]
)
def test_directory(given: str, image: str, expected: str, rootfs: str) -> None:
    config = ImageConfig(cmd=("x",), working_dir=image)
    assert resolve_process(config, rootfs, cwd=given).cwd == expected


USERS = {
    "": ResolvedUser(0, 0, (), "/root"),
    "root": ResolvedUser(0, 0, (), "/root"),
    "app": ResolvedUser(1000, 1000, (29, 100), "/home/app"),
    "1000": ResolvedUser(1000, 1000, (29, 100), "/home/app"),
    "app:users": ResolvedUser(1000, 100, (), "/home/app"),
    "app:4242": ResolvedUser(1000, 4242, (), "/home/app"),
    "app:": ResolvedUser(1000, 1000, (29, 100), "/home/app"),
    "4242": ResolvedUser(4242, 0, (), "/"),
    "4242:users": ResolvedUser(4242, 100, (), "/"),
    "homeless": ResolvedUser(1001, 100, (), "/"),
}


@pytest.mark.parametrize("user", USERS)
def test_users(user: str, rootfs: str) -> None:
    assert resolve_user(user, rootfs) == USERS[user]
    assert resolve_process(CONFIG, rootfs, user=user or "root").user == USERS[user]


@pytest.mark.parametrize(
    ("user", "kind"),
    [
        ("nobody", NotFoundError),
        ("app:nogroup", NotFoundError),
        ("4294967295", DecodeError),
        ("99999999999", DecodeError),
        ("٣", DecodeError),
    ],
)
def test_unknown_users(user: str, kind: type[Exception], rootfs: str) -> None:
    with pytest.raises(kind) as caught:
        resolve_user(user, rootfs)
    assert getattr(caught.value, "code", "") == "image.user"


def test_without_files(tmp_path: Path) -> None:
    assert resolve_user("", str(tmp_path)) == ResolvedUser()
    with pytest.raises(NotFoundError):
        resolve_user("app", str(tmp_path))


@pytest.mark.parametrize(
    "target", ["/lib/passwd", "../lib/passwd", "../../../../lib/passwd", "../lib/../lib/passwd"]
)
def test_a_linked_passwd_stays_inside(target: str, rootfs: str) -> None:
    os.mkdir(os.path.join(rootfs, "lib"))
    os.rename(os.path.join(rootfs, "etc/passwd"), os.path.join(rootfs, "lib/passwd"))
    os.symlink(target, os.path.join(rootfs, "etc/passwd"))
    assert resolve_user("app", rootfs).uid == 1000


def test_a_linked_etc_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/passwd").write_text(PASSWD)
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "rootfs/etc").symlink_to(tmp_path / "outside")
    with pytest.raises(NotFoundError):
        resolve_user("app", str(tmp_path / "rootfs"))


def test_strange_files(rootfs: str) -> None:
    passwd = os.path.join(rootfs, "etc/passwd")
    os.unlink(passwd)
    os.mkfifo(passwd)
    assert resolve_user("5", rootfs).uid == 5
    os.unlink(passwd)
    os.symlink("passwd", passwd)
    assert resolve_user("5", rootfs).uid == 5
    os.unlink(passwd)
    with open(passwd, "wb") as file:
        file.truncate(5 << 20)
    with pytest.raises(DecodeError):
        resolve_user("5", rootfs)

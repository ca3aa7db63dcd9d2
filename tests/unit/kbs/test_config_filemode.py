# SPDX-License-Identifier: Apache-2.0
"""Private files that an access control list lends: to this process, as systemd's credentials, or others."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from sealpod.errors import AccessError
from sealpod.kbs.server.filemode import effective_mode
from sealpod.kbs.server.files import read_private

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY = 0xFFFFFFFF
STRANGER = 61_234
ME = os.geteuid()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "key"
    made.write_bytes(b"content")
    made.chmod(0o400)
    return made


def allow(path: Path, *entries: tuple[int, int, int]) -> None:
    """Give the file a list: (tag, rights, id) each."""
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", raw)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("no access control lists on this file system")
        raise


def lent(path: Path, *entries: tuple[int, int, int], group: int = 0, mask: int = 4) -> None:
    given = [(USER_OBJ, 4, NOBODY), *entries, (MASK, mask, NOBODY), (OTHER, 0, NOBODY)]
    given.append((GROUP_OBJ, group, NOBODY))
    allow(path, *sorted(given))


def mode_of(path: Path) -> int:
    with open(path, "rb") as file:
        return effective_mode(file.fileno())


def test_without_a_list_the_mode_is_all(path: Path) -> None:
    path.chmod(0o640)
    assert mode_of(path) == 0o640


def test_lent_to_this_process_alone(path: Path) -> None:
    """What ``LoadCredential=`` makes: ls shows mode 0440."""
    lent(path, (USER, 4, ME))
    assert path.stat().st_mode & 0o777 == 0o440
    assert mode_of(path) == 0o400
    assert read_private(str(path), "key") == b"content"


@pytest.mark.parametrize("kind", [USER, GROUP])
def test_lent_to_others_too(path: Path, kind: int) -> None:
    # Root's file with a group of this process's, if that runs as root: not even then.
    lent(path, (USER, 4, ME), (kind, 4, STRANGER))
    assert mode_of(path) == 0o404
    with pytest.raises(AccessError) as caught:
        read_private(str(path), "key")
    assert caught.value.code == "kbs.file-mode"


def test_the_mask_takes_rights_away(path: Path) -> None:
    lent(path, (USER, 6, STRANGER), group=4, mask=0)
    assert mode_of(path) == 0o400


def test_the_group_is_still_the_group(path: Path) -> None:
    lent(path, (USER, 4, ME), group=4)
    assert mode_of(path) == 0o440

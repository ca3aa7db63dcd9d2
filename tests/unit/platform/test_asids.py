# SPDX-License-Identifier: Apache-2.0
"""Address space ids: one machine's, whichever processes its guests are in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sealpod.errors import AccessError, FirmwareError
from sealpod.platform.model.asids import AsidTable
from sealpod.platform.model.guests import MAX_ASID, MIN_SEV_ASID
from sealpod.sev.status import Status

HOLD = """
import sys
from sealpod.platform.model.asids import AsidTable
table = AsidTable(sys.argv[1])
print(*[table.take(es=word == "es") for word in sys.argv[2:]], flush=True)
sys.stdin.read()
"""


def test_guests_with_and_without_es_have_ids_of_their_own(tmp_path: Path) -> None:
    table = AsidTable(str(tmp_path))
    assert [table.take(es=True) for _ in range(3)] == [1, 2, 3]
    assert [table.take(es=False) for _ in range(3)] == [MIN_SEV_ASID, MIN_SEV_ASID + 1, MIN_SEV_ASID + 2]
    table.release(2)
    table.release(2)
    assert table.take(es=True) == 2
    table.close()


@pytest.mark.parametrize(("es", "count"), [(True, MIN_SEV_ASID - 1), (False, MAX_ASID - MIN_SEV_ASID + 1)])
def test_when_all_are_taken_that_is_said(tmp_path: Path, es: bool, count: int) -> None:
    table = AsidTable(str(tmp_path))
    taken = [table.take(es=es) for _ in range(count)]
    assert len(set(taken)) == count
    with pytest.raises(FirmwareError) as caught:
        table.take(es=es)
    assert caught.value.status == Status.RESOURCE_LIMIT
    assert table.take(es=not es)
    assert table.others() == 0
    table.close()


def test_two_tables_of_one_machine_never_give_the_same_id(tmp_path: Path) -> None:
    first, second, third = (AsidTable(str(tmp_path)) for _ in range(3))
    taken = [table.take(es=es) for es in (True, False) for table in (first, second, first, third, second)]
    assert len(set(taken)) == len(taken)
    assert [table.others() for table in (first, second, third)] == [6, 6, 8]
    first.close()
    assert [table.others() for table in (second, third)] == [2, 4]
    assert second.take(es=True) == 1
    first.release(1)
    assert third.others() == 5
    second.close()
    third.close()


def test_a_killed_process_gives_its_ids_back(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path), "es", "es", "plain"]
    table = AsidTable(str(tmp_path))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().split() == ["1", "2", str(MIN_SEV_ASID)]
        assert table.others() == 3
        assert table.take(es=True) == 3
        other.kill()
    assert table.others() == 0
    assert table.take(es=True) == 1
    table.close()


def test_the_file_is_private_and_no_link_is_followed(tmp_path: Path) -> None:
    AsidTable(str(tmp_path)).close()
    assert os.stat(tmp_path / "asids").st_mode & 0o777 == 0o600
    (tmp_path / "asids").unlink()
    (tmp_path / "asids").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AccessError, match="symbolic"):
        AsidTable(str(tmp_path))

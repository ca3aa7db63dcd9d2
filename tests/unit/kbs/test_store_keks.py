# SPDX-License-Identifier: Apache-2.0
"""Sources of key-encryption keys, and a database's own."""

from __future__ import annotations

import base64
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sealpod.errors import (
    AccessError,
    NotFoundError,
    OperationError,
    SealpodError,
    UsageError,
    VerificationError,
)
from sealpod.kbs.core.sealing import KeyRing, kek_id
from sealpod.kbs.store import secrets
from sealpod.kbs.store.database import open_database
from sealpod.kbs.store.keks import KekSources, load_keys, load_ring
from sealpod.kbs.store.livekeys import ASK_INTERVAL, LOOK_INTERVAL, LiveKeyRing
from sealpod.kbs.store.sealer import RecordSealer, largest_sealed
from sealpod.secret import SecretBytes

KEYS = [bytes([number]) * 32 for number in range(3)]
B64 = [base64.b64encode(key) for key in KEYS]


def key_file(directory: Path, content: bytes, *, mode: int = 0o600) -> str:
    path = directory / "kek"
    path.write_bytes(content)
    path.chmod(mode)
    return f"file:{path}"


class TestSources:
    @pytest.mark.parametrize(
        ("content", "keys"),
        [
            (KEYS[1], [1]),
            (b"\n" * 32, None),
            (B64[1], [1]),
            (B64[1] + b"\n", [1]),
            (KEYS[1].hex().encode() + b"\n", [1]),
            (KEYS[1].hex().upper().encode(), [1]),
            (b"# the new one\n" + B64[2] + b"\n\n" + KEYS[1].hex().encode() + b"\r\n", [2, 1]),
        ],
    )
    def test_forms(self, tmp_path: Path, content: bytes, keys: list[int] | None) -> None:
        expected = [SecretBytes(content)] if keys is None else [SecretBytes(KEYS[one]) for one in keys]
        assert list(load_keys(key_file(tmp_path, content))) == expected
        assert list(load_keys(key_file(tmp_path, content).removeprefix("file:"))) == expected

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\n",
            b"#",
            b"hunter2",
            B64[1][:-1],
            B64[1] + b" " + B64[2],
            KEYS[1][:31],
            B64[1] * 2000,
            b"\xff",
        ],
    )
    def test_what_is_no_key(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(UsageError) as caught:
            load_keys(key_file(tmp_path, content))
        assert caught.value.code == "kek.malformed"
        text = caught.value.one_line().replace(str(tmp_path), "")
        assert "hunter2" not in text
        assert B64[1].decode() not in caught.value.one_line()

    @pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666])
    def test_a_file_for_everybody(self, tmp_path: Path, mode: int) -> None:
        with pytest.raises(AccessError) as caught:
            load_keys(key_file(tmp_path, B64[1], mode=mode))
        assert caught.value.code == "kek.permissions"

    def test_a_file_of_a_group(self, tmp_path: Path) -> None:
        """Container platforms hand files over so."""
        assert load_keys(key_file(tmp_path, B64[1], mode=0o440))

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError):
            load_keys(f"file:{tmp_path / 'no'}")
        with pytest.raises(SealpodError):
            load_keys(f"file:{tmp_path}")

    def test_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("THE_KEK", B64[1].decode())
        assert load_keys("env:THE_KEK") == (SecretBytes(KEYS[1]),)
        monkeypatch.delenv("THE_KEK")
        with pytest.raises(NotFoundError):
            load_keys("env:THE_KEK")

    def test_command(self, tmp_path: Path) -> None:
        script = tmp_path / "with space.py"
        script.write_text(f"import sys; assert sys.argv[1:] == ['a b', '$HOME']; print('{B64[1].decode()}')")
        assert load_keys(f"command:{sys.executable} '{script}' 'a b' '$HOME'") == (SecretBytes(KEYS[1]),)

    @pytest.mark.parametrize(
        "command",
        [
            f"{sys.executable} -c 'import sys; sys.exit(3)'",
            f"{sys.executable} -c 'import os; os.kill(os.getpid(), 9)'",
            "/no/such/program",
        ],
    )
    def test_commands_that_fail(self, command: str) -> None:
        with pytest.raises(OperationError) as caught:
            load_keys(f"command:{command}")
        assert caught.value.code == "kek.command"

    def test_a_command_that_does_not_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sealpod.kbs.store.keks.COMMAND_TIMEOUT", 0.2)
        with pytest.raises(OperationError, match="did not print a key"):
            load_keys(f"command:{sys.executable} -c 'import signal; signal.pause()'")

    @pytest.mark.parametrize("source", ["", "x", "file:", "env:", "kms:x", "command:", "command:'", "none"])
    def test_what_is_no_source(self, source: str) -> None:
        with pytest.raises(UsageError) as caught:
            load_keys(source)
        assert caught.value.code == "kek.source"

    def test_from_the_environment(self) -> None:
        assert KekSources.from_environment({}) == KekSources()
        assert KekSources.from_environment(
            {"SEALPOD_KBS_KEK": "env:A", "SEALPOD_KBS_OLD_KEKS": "env:B\n\ncommand:c d\n"}
        ) == KekSources("env:A", ("env:B", "command:c d"))

    def test_the_first_key_seals(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OLD", B64[0].decode())
        ring = load_ring(
            KekSources(key_file(tmp_path, B64[2] + b"\n" + B64[1]), ("env:OLD",)), rng=os.urandom
        )
        assert ring.active == kek_id(SecretBytes(KEYS[2]))
        assert len(ring.ids) == 3

    def test_no_active_source(self) -> None:
        with pytest.raises(UsageError):
            load_ring(KekSources(None, ("env:OLD",)), rng=os.urandom)


class TestLive:
    """Keys change while a broker runs; the clock is the test's."""

    def ring(self, source: str, now: list[float]) -> LiveKeyRing:
        return LiveKeyRing(KekSources(source), rng=os.urandom, clock=lambda: now[0])

    def test_a_new_key_in_the_file_seals(self, tmp_path: Path) -> None:
        now = [0.0]
        live = self.ring(key_file(tmp_path, B64[1]), now)
        before = live.seal(SecretBytes(b"x"), context=b"c")
        key_file(tmp_path, B64[2] + b"\n" + B64[1])
        assert live.ring().active == kek_id(SecretBytes(KEYS[1]))
        now[0] += LOOK_INTERVAL
        assert live.ring().active == kek_id(SecretBytes(KEYS[2]))
        assert live.open(before, context=b"c") == SecretBytes(b"x")

    def test_a_record_of_a_replica_that_is_ahead(self, tmp_path: Path) -> None:
        now = [0.0]
        live = self.ring(key_file(tmp_path, B64[1]), now)
        ahead = KeyRing(SecretBytes(KEYS[2]), rng=os.urandom).seal(SecretBytes(b"x"), context=b"c")
        with pytest.raises(VerificationError) as caught:
            live.open(ahead, context=b"c")
        assert caught.value.code == "seal.key-missing"
        key_file(tmp_path, B64[2] + b"\n" + B64[1])
        assert live.open(ahead, context=b"c") == SecretBytes(b"x")

    def test_a_command_is_asked_now_and_then(self, tmp_path: Path) -> None:
        now = [100.0]
        keys, asked = tmp_path / "keys", tmp_path / "asked"
        keys.write_bytes(B64[1])
        live = self.ring(f"command:sh -c 'echo x >> {asked}; cat {keys}'", now)
        ahead = KeyRing(SecretBytes(KEYS[2]), rng=os.urandom).seal(SecretBytes(b"x"), context=b"c")
        for _ in range(5):
            with pytest.raises(VerificationError):
                live.open(ahead, context=b"c")
        assert asked.read_text() == "x\nx\n"
        keys.write_bytes(B64[2] + b"\n" + B64[1])
        now[0] += ASK_INTERVAL
        assert live.open(ahead, context=b"c") == SecretBytes(b"x")
        assert asked.read_text() == "x\nx\nx\n"

    def test_many_that_miss_a_key_at_once(self, tmp_path: Path) -> None:
        """All of them get it, whoever reads the file."""
        live = self.ring(key_file(tmp_path, B64[1]), [0.0])
        ahead = KeyRing(SecretBytes(KEYS[2]), rng=os.urandom).seal(SecretBytes(b"x"), context=b"c")
        key_file(tmp_path, B64[2] + b"\n" + B64[1])
        barrier = threading.Barrier(8)

        def read(_: int) -> SecretBytes:
            barrier.wait(timeout=10)
            return live.open(ahead, context=b"c")

        with ThreadPoolExecutor(8) as pool:
            assert all(one == SecretBytes(b"x") for one in pool.map(read, range(8)))

    def test_a_source_that_fails_later(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        now = [0.0]
        live = self.ring(key_file(tmp_path, B64[1]), now)
        sealed = live.seal(SecretBytes(b"x"), context=b"c")
        key_file(tmp_path, b"hunter2")
        now[0] += LOOK_INTERVAL
        assert live.open(sealed, context=b"c") == SecretBytes(b"x")
        assert "not read again" in caplog.text
        assert "hunter2" not in caplog.text
        (tmp_path / "kek").unlink()
        now[0] += LOOK_INTERVAL
        assert live.open(sealed, context=b"c") == SecretBytes(b"x")


class TestRecords:
    def sealer(self, tmp_path: Path) -> RecordSealer:
        return RecordSealer(LiveKeyRing(KekSources(key_file(tmp_path, B64[1])), rng=os.urandom))

    @pytest.mark.parametrize("text", ["", "AAAA", "a2V5", "not base64", "AAAA\n", "AB==", "ключ", "a2V5a2V5"])
    def test_the_text_comes_back_exactly(self, tmp_path: Path, text: str) -> None:
        sealer = self.sealer(tmp_path)
        given = SecretBytes(text.encode())
        column = sealer.seal_text("secrets", "key_id1", given, width=1024)
        assert column.startswith("sealpod:1:")
        assert sealer.open_text("secrets", "key_id1", column) == given
        for table, key in (("secrets", "key_id2"), ("report_keypair", "key_id1"), ("secret", "skey_id1")):
            with pytest.raises(VerificationError):
                sealer.open_text(table, key, column)

    def test_the_largest_that_fits(self, tmp_path: Path) -> None:
        sealer = self.sealer(tmp_path)
        for width in (512, 1024, 1025, 1026, 1027):
            size = largest_sealed(width)
            text = SecretBytes(base64.b64encode(bytes(size)))
            assert len(sealer.seal_text("t", "k", text, width=width)) <= width
            with pytest.raises(UsageError) as caught:
                sealer.seal_text("t", "k", SecretBytes(base64.b64encode(bytes(size + 1))), width=width)
            assert caught.value.code == "secret.size"

    def test_without_keys(self) -> None:
        plain = RecordSealer(None)
        assert plain.seal_text("t", "k", SecretBytes(b"a2V5"), width=10) == "a2V5"
        assert plain.open_text("t", "k", "a2V5") == SecretBytes(b"a2V5")
        with pytest.raises(VerificationError) as caught:
            plain.open_text("t", "k", "sealpod:1:00000000:AAAA")
        assert caught.value.code == "seal.key-missing"
        # Launches are sealed all the same, for this process alone.
        sealed = plain.seal(SecretBytes(b"keys"), context=b"c")
        assert plain.open(sealed, context=b"c") == SecretBytes(b"keys")
        with pytest.raises(VerificationError):
            RecordSealer(None).open(sealed, context=b"c")


class TestOwnKey:
    """The key beside a SQLite database."""

    def test_made_once_and_for_its_owner_alone(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'kbs.db'}"
        with open_database(url) as db:
            secrets.set_secret(db, "x", SecretBytes(b"k"), policy=None)
        key = tmp_path / "kbs.db.kek"
        assert key.stat().st_mode & 0o777 == 0o600
        before = key.read_bytes()
        with open_database(url) as db:
            assert secrets.reveal_secret(db, "x") == SecretBytes(b"aw==")
        assert key.read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["kbs.db", "kbs.db.kek"]

    def test_gone_while_records_need_it(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'kbs.db'}"
        with open_database(url) as db:
            secrets.set_secret(db, "x", SecretBytes(b"k"), policy=None)
        (tmp_path / "kbs.db.kek").rename(tmp_path / "elsewhere")
        with pytest.raises(NotFoundError) as caught:
            open_database(url)
        assert caught.value.code == "kek.missing"
        assert not (tmp_path / "kbs.db.kek").exists()
        with open_database(url, keks=KekSources(f"file:{tmp_path / 'elsewhere'}")) as db:
            assert secrets.reveal_secret(db, "x") == SecretBytes(b"aw==")

    def test_another_key_is_refused_at_start(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'kbs.db'}"
        with open_database(url) as db:
            secrets.set_secret(db, "x", SecretBytes(b"k"), policy=None)
            assert db.sealer.keys is not None
            name = db.sealer.keys.ring().active
        for keks in (KekSources(key_file(tmp_path, B64[1])), KekSources("none")):
            with pytest.raises(VerificationError) as caught:
                open_database(url, keks=keks)
            assert caught.value.code == "seal.key-missing"
            assert f"{name} (secrets: 1)" in caught.value.message
        older = (f"file:{tmp_path / 'kbs.db.kek'}",)
        with open_database(url, keks=KekSources(key_file(tmp_path, B64[1]), older)) as db:
            assert secrets.reveal_secret(db, "x") == SecretBytes(b"aw==")

    def test_none_is_as_simple_kbs(self, tmp_path: Path) -> None:
        with open_database(f"sqlite:///{tmp_path / 'kbs.db'}", keks=KekSources("none")) as db:
            secrets.set_secret(db, "x", SecretBytes(bytes(768)), policy=None)
            assert secrets.show_secret(db, "x") == secrets.SecretInfo("x", 768, None, False)
        assert not (tmp_path / "kbs.db.kek").exists()
        with pytest.raises(UsageError):
            open_database(f"sqlite:///{tmp_path / 'kbs.db'}", keks=KekSources("none", ("env:OLD",)))

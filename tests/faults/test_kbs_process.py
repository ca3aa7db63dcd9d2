# SPDX-License-Identifier: Apache-2.0
"""One broker as a process, on SQLite: no space, a clock set back, and ten thousand malformed messages."""

from __future__ import annotations

import ctypes
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import kbsload
import pytest
from kbsload import BUNDLE_GUID, CONNECTION_GUID, Caller, LoadPlatform, code_of

from sealpod.kbs.store.auditlog import read_entries, verify_log
from sealpod.kbs.store.database import open_database
from sealpod.kbs.store.keysets import set_keyset
from sealpod.kbs.store.secrets import set_secret
from sealpod.secret import SecretBytes
from sealpod.wire.pb import keybroker_pb2 as pb

BUNDLE = (BUNDLE_GUID, "json", "bundle", "KEYSET-1")
MIB = 1 << 20
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
HOUR = 3600


@pytest.fixture(scope="module")
def platform() -> LoadPlatform:
    return LoadPlatform()


def seed(url: str) -> None:
    with open_database(url) as db:
        set_secret(db, "key_id1", SecretBytes(b"k" * 32), policy=None)
        set_keyset(db, "KEYSET-1", ("key_id1",), policy=None)


def grants(url: str) -> int:
    """Releases in the log, which must be whole."""
    with open_database(url) as db:
        verify_log(db.engine)
        records = [entry.fields() for entry in read_entries(db.engine)]
    return sum(one["call"] == "GetSecret" and one["outcome"] == "granted" for one in records)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=4m") != 0:
        pytest.skip(f"mount: {os.strerror(ctypes.get_errno())}")
    yield place
    # Lazily: a mount that something still uses must not stay behind.
    libc.umount2(os.fsencode(place), 2)


def fill(place: Path) -> Path:
    filler = place / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(4096))
                file.flush()
        except OSError:
            pass
    return filler


def test_a_full_disk(small_disk: Path, platform: LoadPlatform) -> None:
    """Nothing is released that cannot be written down; with space the same process goes on."""
    url = f"sqlite:///{small_disk / 'kbs.db'}"
    seed(url)
    with kbsload.running(url, platform) as broker, Caller(broker.address) as caller:
        released, codes, waiting = 0, Counter[str](), []
        for _ in range(5):
            reply = pb.BundleResponse.FromString(caller("GetBundle", platform.bundle_request()))
            waiting.append(platform.measured(reply))
        try:
            filler = fill(small_disk)
        except OSError:
            filler = small_disk / "filler"
        # What is free inside of the database's own files is used up first.
        for _ in range(3000):
            try:
                caller.launch(platform, BUNDLE)
                released += 1
            except grpc.RpcError as error:
                codes[code_of(error)] += 1
                if codes.total() >= 10:
                    break
        assert codes
        assert set(codes) <= {"store.full", "store.unavailable"}, codes
        for measured in waiting:
            with pytest.raises(grpc.RpcError) as caught:
                caller("GetSecret", measured.secret_request(BUNDLE))
            assert code_of(caught.value).startswith("store.")
        filler.unlink()
        # Nothing was spent on the refusals.
        for measured in waiting:
            assert BUNDLE_GUID in measured.open(caller("GetSecret", measured.secret_request(BUNDLE)))
            released += 1
        assert BUNDLE_GUID in caller.launch(platform, BUNDLE)
        released += 1
        assert broker.terminate() == 0
    assert grants(url) == released


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed (Debian package libfaketime)")
def test_a_clock_set_back(platform: LoadPlatform, tmp_path: Path) -> None:
    """A launch whose time is over stays over when the clock goes back; what is in progress goes on."""
    url, offset = f"sqlite:///{tmp_path / 'kbs.db'}", tmp_path / "offset"
    seed(url)
    set_clock(offset, "+0s")
    environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    options = ("--launch-ttl", "600")
    with (
        kbsload.running(url, platform, *options, environment=environment) as broker,
        without_trace(broker.popen.pid),
        Caller(broker.address) as caller,
    ):

        def begin() -> kbsload.Measured:
            reply = caller("GetBundle", platform.bundle_request())
            return platform.measured(pb.BundleResponse.FromString(reply))

        old = begin()
        set_clock(offset, "+1h")
        with pytest.raises(grpc.RpcError) as caught:
            caller("GetSecret", old.secret_request(BUNDLE))
        assert code_of(caught.value) == "launch.unknown"
        current = begin()
        set_clock(offset, "-2h")
        with pytest.raises(grpc.RpcError) as caught:
            caller("GetSecret", old.secret_request(BUNDLE))
        assert code_of(caught.value) == "launch.unknown"
        assert current.open(caller("GetSecret", current.secret_request(BUNDLE)))
        assert caller.launch(platform, BUNDLE)
    with open_database(url) as db:
        verify_log(db.engine)
        times = [entry.fields()["time"] for entry in read_entries(db.engine)]
    assert times == sorted(times)


def set_clock(offset: Path, text: str) -> None:
    """In one step: libfaketime reads it at every look at the clock, and newer ones end at an empty file."""
    fresh = offset.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(offset)


@contextmanager
def without_trace(pid: int) -> Iterator[None]:
    """Removes what libfaketime shares with children, and 0.9.10 leaves behind even where all ends well."""
    try:
        yield
    finally:
        for name in ("faketime_shm", "sem.faketime_sem"):
            Path(f"/dev/shm/{name}_{pid}").unlink(missing_ok=True)


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """Some damage to a message."""
    data = bytearray(raw)
    for _ in range(rng.randint(1, 6)):
        kind = rng.randrange(6)
        at = rng.randrange(len(data)) if data else 0
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at] = rng.randbytes(rng.randint(1, 40))
        elif kind == 2:
            del data[at : at + rng.randint(1, 200)]
        elif kind == 3:
            data = data[:at]
        elif kind == 4:
            data += data[at : at + 500]
        else:
            data[at:at] = bytes([rng.randrange(1, 256)]) * rng.randint(1, 3000)
    return bytes(data)


def test_ten_thousand_malformed_messages(platform: LoadPlatform, tmp_path: Path) -> None:
    """Each gets a status; others are served meanwhile; memory stays what it was."""
    url = f"sqlite:///{tmp_path / 'kbs.db'}"
    seed(url)
    with kbsload.running(url, platform, level="error") as broker, Caller(broker.address) as caller:
        connection = caller.launch(platform, (CONNECTION_GUID, "json", "connection", ""))[CONNECTION_GUID]
        reply = pb.BundleResponse.FromString(caller("GetBundle", platform.bundle_request()))
        details = [pb.RequestDetails(Guid=BUNDLE_GUID, Format="binary", SecretType="key", Id="key_id1")]
        online = pb.OnlineSecretRequest(
            ClientId=connection.split(b'"')[3].decode(), SecretRequests=details
        ).SerializeToString()
        originals = (
            ("GetBundle", platform.bundle_request()),
            ("GetSecret", platform.measured(reply).secret_request(BUNDLE)),
            ("GetOnlineSecret", online),
        )
        for name, raw in originals[:1] + originals[2:]:
            assert caller(name, raw)
        stop, served = threading.Event(), Counter[str]()

        def others() -> None:
            with Caller(broker.address) as other:
                while not stop.is_set():
                    assert BUNDLE_GUID in other.launch(platform, BUNDLE)
                    served["launches"] += 1

        def attack(seed: int) -> Counter[str]:
            rng, ends = random.Random(seed), Counter[str]()
            with Caller(broker.address) as attacker:
                for number in range(1250):
                    name, raw = originals[number % 3]
                    try:
                        attacker(name, mutated(raw, rng))
                        ends["answered"] += 1
                    except grpc.RpcError as error:
                        ends[code_of(error)] += 1
            return ends

        def round_of(seeds: range) -> Counter[str]:
            with ThreadPoolExecutor(4) as pool:
                return sum(pool.map(attack, seeds), Counter())

        good = threading.Thread(target=others)
        good.start()
        try:
            ends = round_of(range(4))
            before = broker.rss
            ends += round_of(range(4, 8))
            grown = broker.rss - before
        finally:
            stop.set()
            good.join(timeout=60)
        assert ends.total() == 10_000
        assert "internal.error" not in ends
        assert not set(ends) & {"UNAVAILABLE", "UNKNOWN", "DEADLINE_EXCEEDED", "CANCELLED"}, ends
        assert grown < 32 * MIB
        assert served["launches"] > 20
        assert broker.terminate() == 0
    # Of the one launch whose request was damaged at most one answer went out, as of any.
    assert grants(url) - served["launches"] - 1 in (0, 1)

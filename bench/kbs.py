# SPDX-License-Identifier: Apache-2.0
"""Launches per second of the key broker against their cryptography alone. Prints figures only.

Ours: ``sealpod kbs serve`` as a process, held to one processor, and clients of their own processes on the
others, each launch a GetBundle and a GetSecret with a bundle of one key. Floor: the operations of one launch
(seven signatures of a platform's chain under RSA-4096, a P-384 key, one key agreement, the derivations, MACs
and ciphers of session, measurement, packet and sealing) alone, in a loop, by one process on the same
processor. Keys and inputs are ready made there; nothing is parsed, stored or sent. Floor and broker are taken
in turn. With a cache of verified chains the broker leaves out what the second floor leaves out: the seven
signatures.

``--beside HOST:PORT,PID`` measures another broker of the same protocol that runs already, with the same
clients: simple-kbs, for instance, whose database has the keyset KEYSET-1 and which should be held to the same
processor (``taskset -c 0``).

The clients do the firmware's part; when they use all of their processors, the broker was not measured, and
the figure says so.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import kbsload
from databases import MariaDb, running, server_database

from sealpod.kbs.store.database import open_database
from sealpod.kbs.store.keks import KekSources
from sealpod.secret import SecretBytes
from sealpod.sev.kdf import aes_ctr, kdf
from sealpod.wire.pb import keybroker_pb2 as pb

BUNDLE = (kbsload.BUNDLE_GUID, "json", "bundle", "KEYSET-1")


class Floor:
    """What one launch has to calculate, with everything it is calculated from at hand."""

    def __init__(self, platform: kbsload.LoadPlatform) -> None:
        self._message = os.urandom(1044)
        self._rsa = platform.ark_key.public_key()
        self._pss = padding.PSS(padding.MGF1(hashes.SHA384()), hashes.SHA384().digest_size)
        self._rsa_signature = platform.ark_key.sign(self._message, self._pss, hashes.SHA384())
        self._ecdsa = ec.ECDSA(hashes.SHA256())
        self._ec = platform.keys["pek"].public_key()
        self._ec_signature = platform.keys["pek"].sign(self._message, self._ecdsa)
        self._pdh = platform.keys["pdh"].public_key()
        self._aead = AESGCM(os.urandom(32))

    def launch(self, *, chain: bool) -> None:
        if chain:
            for _ in range(3):  # ARK by itself, ASK by ARK, CEK by ASK
                self._rsa.verify(self._rsa_signature, self._message, self._pss, hashes.SHA384())
            for _ in range(4):  # OCA by itself, PEK by OCA, PEK by CEK, PDH by PEK
                self._ec.verify(self._ec_signature, self._message, self._ecdsa)
        key = ec.generate_private_key(ec.SECP384R1())
        shared, nonce = key.exchange(ec.ECDH(), self._pdh), os.urandom(16)
        master = kdf(shared, 16, b"sev-master-secret", nonce)
        kek, kik = kdf(master, 16, b"sev-kek"), kdf(master, 16, b"sev-kik")
        transport = os.urandom(32)
        wrapped = aes_ctr(kek, os.urandom(16), transport)
        hmac.digest(kik, wrapped, "sha256")
        hmac.digest(transport[16:], wrapped[:4], "sha256")
        iv = os.urandom(12)
        self._aead.decrypt(iv, self._aead.encrypt(iv, transport, wrapped), wrapped)
        hmac.digest(transport[16:], self._message[:60], "sha256")
        table = aes_ctr(transport[:16], os.urandom(16), self._message[:112])
        hmac.digest(transport[16:], table, "sha256")

    def rate(self, seconds: float, *, chain: bool) -> tuple[float, float]:
        """Launches per second, and milliseconds of processor time for each."""
        count, begin, before = 0, time.perf_counter(), time.process_time()
        while (taken := time.perf_counter() - begin) < seconds:
            self.launch(chain=chain)
            count += 1
        return count / taken, (time.process_time() - before) / count * 1e3


@dataclass
class Load:
    """What one client process did."""

    latencies: list[float]
    cpu: float
    failures: int


@dataclass
class Measured:
    """Launches per second, median and 99th percentile in ms, processors used by brokers and by clients."""

    launches: int
    rate: float
    middle: float
    late: float
    used: float
    spent: float


async def _drive(platform: kbsload.LoadPlatform, addresses: list[str], callers: int, seconds: float) -> Load:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for address in addresses]
    methods = [
        [channel.unary_unary(kbsload.SERVICE + name) for name in ("GetBundle", "GetSecret")]
        for channel in channels
    ]
    request, latencies, failures = platform.bundle_request(), [], 0
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        nonlocal failures
        turn = number
        while time.perf_counter() < end:
            begin = time.perf_counter()
            try:
                # A launch may be finished by another replica than began it.
                bundle = await methods[turn % len(methods)][0](request, timeout=20)
                measured = platform.measured(pb.BundleResponse.FromString(bundle))
                turn += 1
                await methods[turn % len(methods)][1](measured.secret_request(BUNDLE), timeout=20)
            except grpc.RpcError:
                failures += 1
                continue
            latencies.append(time.perf_counter() - begin)

    before = time.process_time()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    cpu = time.process_time() - before
    for channel in channels:
        await channel.close()
    return Load(latencies, cpu, failures)


class Broker(Protocol):
    """A process that answers launches."""

    @property
    def address(self) -> str: ...

    @property
    def rss(self) -> int: ...

    @property
    def cpu(self) -> float: ...


@dataclass(frozen=True)
class Beside:
    """A broker somebody else started."""

    address: str
    pid: int

    @property
    def rss(self) -> int:
        return kbsload.rss_of(self.pid)

    @property
    def cpu(self) -> float:
        return kbsload.cpu_of(self.pid)


def client(
    platform: kbsload.LoadPlatform,
    addresses: list[str],
    callers: int,
    seconds: float,
    cores: list[int],
    out: Any,
) -> None:
    os.sched_setaffinity(0, cores)
    out.send(asyncio.run(_drive(platform, addresses, callers, seconds)))


def measure(
    platform: kbsload.LoadPlatform,
    brokers: Sequence[Broker],
    arguments: argparse.Namespace,
    cores: list[int],
) -> Measured:
    """One measurement of all brokers."""
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    before, begin = sum(one.cpu for one in brokers), time.perf_counter()
    for _ in range(arguments.clients):
        receiver, sender = context.Pipe(duplex=False)
        each = max(1, arguments.callers // arguments.clients)
        addresses = [one.address for one in brokers]
        process = context.Process(
            target=client, args=(platform, addresses, each, arguments.seconds, cores, sender)
        )
        process.start()
        pipes.append(receiver)
        processes.append(process)
    loads = [pipe.recv() for pipe in pipes]
    taken = time.perf_counter() - begin
    used = sum(one.cpu for one in brokers) - before
    for process in processes:
        process.join()
    failures = sum(load.failures for load in loads)
    if failures:
        print(f"  {failures} launches failed", flush=True)
    latencies = sorted(one for load in loads for one in load.latencies)
    middle, late = statistics.median(latencies), latencies[int(len(latencies) * 0.99)]
    spent = sum(load.cpu for load in loads)
    return Measured(
        len(latencies), len(latencies) / taken, middle * 1e3, late * 1e3, used / taken, spent / taken
    )


def seed(url: str) -> None:
    from sealpod.kbs.store.keysets import set_keyset
    from sealpod.kbs.store.secrets import set_secret

    with open_database(url, keks=KekSources.from_environment(os.environ)) as db:
        set_secret(db, "key_id1", SecretBytes(os.urandom(32)), policy=None)
        set_keyset(db, "KEYSET-1", ("key_id1",), policy=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=("sqlite", "mariadb"), default="sqlite")
    parser.add_argument(
        "--launches", type=int, default=0, help="instead: so many launches, and the broker's memory meanwhile"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--callers", type=int, default=16, help="launches in flight")
    parser.add_argument("--clients", type=int, default=1, help="processes that send them")
    parser.add_argument("--cache", choices=("on", "off", "both"), default="both")
    parser.add_argument("--beside", metavar="HOST:PORT,PID", help="a broker that runs already, not ours")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    ours, others = cores[:1], cores[1:] or cores
    platform = kbsload.LoadPlatform(4096)
    floor = Floor(platform)
    if arguments.beside:
        address, _, pid = arguments.beside.rpartition(",")
        report(platform, [Beside(address, int(pid))], floor, arguments, "off", ours, others)
        return
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="kbs-bench-"))
        url = stack.enter_context(database(arguments.database, Path(directory)))
        kek = Path(directory) / "kek"
        kek.write_text(os.urandom(32).hex())
        kek.chmod(0o600)
        os.environ["SEALPOD_KBS_KEK"] = f"file:{kek}"
        seed(url)
        for cache in ("off", "on") if arguments.cache == "both" else (arguments.cache,):
            options = () if cache == "on" else ("--chain-cache", "0")
            brokers = [kbsload.start(url, platform, *options, cores=ours) for _ in range(arguments.replicas)]
            try:
                if arguments.launches:
                    watch_memory(platform, brokers, arguments, cache, others)
                    continue
                report(platform, brokers, floor, arguments, cache, ours, others)
            finally:
                for one in brokers:
                    one.terminate()


class Durable(MariaDb):
    """MariaDB whose commits are on disk when they return, as it is by default."""

    def command(self) -> Sequence[str]:
        return [
            one.replace("flush-log-at-trx-commit=2", "flush-log-at-trx-commit=1") for one in super().command()
        ]


@contextmanager
def database(kind: str, directory: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if kind == "sqlite":
        yield f"sqlite:///{directory}/kbs.db"
        return
    with running(Durable()) as server:
        yield server_database(server, directory).text


def watch_memory(
    platform: kbsload.LoadPlatform,
    brokers: Sequence[Broker],
    arguments: argparse.Namespace,
    cache: str,
    others: list[int],
) -> None:
    """The brokers' memory over many launches, in tenths."""
    done, begin = 0, time.perf_counter()
    for part in range(11):
        print(
            f"cache {cache}, {done} launches in {time.perf_counter() - begin:.0f} s: "
            f"{sum(broker.rss for broker in brokers) / 2**20:.1f} MiB",
            flush=True,
        )
        while part < 10 and done < arguments.launches * (part + 1) // 10:
            one = measure(platform, brokers, arguments, others)
            done += one.launches


def report(
    platform: kbsload.LoadPlatform,
    brokers: Sequence[Broker],
    floor: Floor,
    arguments: argparse.Namespace,
    cache: str,
    ours: list[int],
    others: list[int],
) -> None:
    for _ in range(arguments.rounds):
        os.sched_setaffinity(0, ours)
        whole, whole_cpu = floor.rate(arguments.seconds / 4, chain=True)
        without, without_cpu = floor.rate(arguments.seconds / 4, chain=False)
        os.sched_setaffinity(0, others)
        one = measure(platform, brokers, arguments, others)
        same, same_cpu = (whole, whole_cpu) if cache == "off" else (without, without_cpu)
        cpu = one.used * 1e3 / one.rate
        busy = "" if one.spent < 0.95 * len(others) else "; the clients were the limit"
        print(
            f"cache {cache}, {len(brokers)} replica(s): {one.rate:.0f} launches/s, p50 {one.middle:.0f} ms, "
            f"p99 {one.late:.0f} ms; floor {whole:.0f}/s whole, {without:.0f}/s without the chain; "
            f"{one.rate / whole:.0%} of the whole, {one.rate / same:.0%} of the same operations; "
            f"processor time of a launch {cpu:.1f} ms, floor {whole_cpu:.1f} whole, {without_cpu:.1f} "
            "without the chain: "
            f"{whole_cpu / cpu:.0%} of the whole, {same_cpu / cpu:.0%} of the same; "
            f"processors: brokers {one.used:.2f}, clients {one.spent:.2f}{busy}; "
            f"memory {sum(broker.rss for broker in brokers) >> 20} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()

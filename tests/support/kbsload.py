# SPDX-License-Identifier: Apache-2.0
"""Brokers as processes, and launches in great numbers against them.

A platform under its own root (RSA-4096 as Milan's when asked), the firmware's side of a launch reduced to
what a client needs (one ECDH and a few HMACs), and ``sealpod kbs serve`` started, awaited, killed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sealpod.sev.ca import make_ca
from sealpod.sev.cert import Algorithm, Certificate, Usage, make, sign
from sealpod.sev.chain import Chain
from sealpod.sev.measurement import compute_measurement
from sealpod.sev.packet import unpack
from sealpod.sev.policy import Policy
from sealpod.sev.session import TransportKeys, open_session
from sealpod.sev.version import FirmwareVersion
from sealpod.wire import secrettable
from sealpod.wire.pb import keybroker_pb2 as pb

SERVICE = "/keybroker.KeyBrokerService/"
VERSION = FirmwareVersion(0, 24, 15)
POLICY = 3
DIGEST = hashlib.sha256(b"kbsload guest").digest()
BUNDLE_GUID = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
CONNECTION_GUID = "1ee27366-0c87-43a6-af48-28543eaf7cb0"
MNONCE = bytes(range(16))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class LoadPlatform:
    """Keys and chain of one platform."""

    def __init__(self, rsa_bits: int = 2048) -> None:
        self.ark_key, self.ask_key = (rsa.generate_private_key(65537, rsa_bits) for _ in range(2))
        self.keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in ("oca", "cek", "pek", "pdh")}
        ark_id, ask_id = os.urandom(16), os.urandom(16)
        rsa_kind = Algorithm.RSA_SHA256 if rsa_bits == 2048 else Algorithm.RSA_SHA384
        ecdsa = Algorithm.ECDSA_SHA256
        ark = make_ca(self.ark_key.public_key(), Usage.ARK, ark_id, ark_id, self.ark_key)
        ask = make_ca(self.ask_key.public_key(), Usage.ASK, ask_id, ark_id, self.ark_key)
        cek = sign(self._make("cek", Usage.CEK), self.ask_key, Usage.ASK, rsa_kind, 0)
        oca = sign(self._make("oca", Usage.OCA), self.keys["oca"], Usage.OCA, ecdsa, 0)
        pek = sign(self._make("pek", Usage.PEK), self.keys["oca"], Usage.OCA, ecdsa, 0)
        pek = sign(pek, self.keys["cek"], Usage.CEK, ecdsa, 1)
        pdh = make(self.keys["pdh"].public_key(), Usage.PDH, Algorithm.ECDH_SHA256)
        pdh = sign(pdh, self.keys["pek"], Usage.PEK, ecdsa, 0)
        self.parts = Chain(pdh, pek, oca, cek, ask, ark)
        self.chain = self.parts.encode()
        self.ark_size = 832 if rsa_bits == 2048 else 1600
        self.fingerprint = hashlib.sha256(self.chain[-self.ark_size :]).hexdigest()

    def _make(self, name: str, usage: Usage) -> Certificate:
        return make(self.keys[name].public_key(), usage, Algorithm.ECDSA_SHA256)

    def bundle_request(self) -> bytes:
        raw: bytes = pb.BundleRequest(CertificateChain=b64(self.chain), Policy=POLICY).SerializeToString()
        return raw

    def measured(self, reply: pb.BundleResponse) -> Measured:
        """What the firmware does with a bundle, up to LAUNCH_MEASURE."""
        godh = Certificate.decode(base64.b64decode(reply.GuestOwnerPublicKey))
        keys = open_session(
            self.keys["pdh"], godh, base64.b64decode(reply.LaunchBlob), Policy.from_int(POLICY)
        )
        measure = compute_measurement(keys.tik, VERSION, Policy.from_int(POLICY), DIGEST, MNONCE)
        return Measured(reply.LaunchId, keys, measure)


@dataclass
class Measured:
    """A launch after LAUNCH_MEASURE."""

    launch_id: str
    keys: TransportKeys
    measure: bytes

    def secret_request(self, *details: tuple[str, str, str, str]) -> bytes:
        raw: bytes = pb.SecretRequest(
            LaunchMeasurement=b64(self.measure + MNONCE),
            LaunchId=self.launch_id,
            Policy=POLICY,
            ApiMajor=VERSION.api_major,
            ApiMinor=VERSION.api_minor,
            BuildId=VERSION.build,
            FwDigest=b64(DIGEST),
            LaunchDescription="load",
            SecretRequests=[
                pb.RequestDetails(Guid=g, Format=f, SecretType=t, Id=i) for g, f, t, i in details
            ],
        ).SerializeToString()
        return raw

    def open(self, reply: bytes) -> dict[str, bytes]:
        """The secret table the guest finds."""
        sealed = pb.SecretResponse.FromString(reply)
        header, data = (base64.b64decode(one) for one in (sealed.LaunchSecretHeader, sealed.LaunchSecretData))
        table = unpack(self.keys, header, data, self.measure).reveal()
        return {str(guid): value for guid, value in secrettable.decode(table).items()}


@dataclass
class Process:
    """A broker as a process."""

    popen: subprocess.Popen[str]
    address: str
    log: list[str] = field(default_factory=list)
    reader: threading.Thread | None = None

    @property
    def rss(self) -> int:
        """Bytes of memory it holds."""
        return rss_of(self.popen.pid)

    @property
    def cpu(self) -> float:
        """Seconds of processor time it has used."""
        return cpu_of(self.popen.pid)

    def kill(self) -> None:
        self.popen.kill()
        self._wait()

    def terminate(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self._wait()

    def _wait(self) -> int:
        status = self.popen.wait(timeout=60)
        if self.reader is not None:
            self.reader.join(timeout=60)
        return status


def rss_of(pid: int) -> int:
    """Bytes of memory a process holds."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024  # type: ignore[index]


def cpu_of(pid: int) -> float:
    """Seconds of processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(
    url: str,
    platform: LoadPlatform,
    *options: str,
    environment: Mapping[str, str] | None = None,
    cores: Sequence[int] | None = None,
    prefix: Sequence[str] = (),
    level: str = "warning",
) -> Process:
    """``sealpod kbs serve`` on a free port of loopback, answering."""
    command = [
        *prefix, sys.executable, "-m", "sealpod.cli.main", "kbs", "serve", "--listen", "127.0.0.1:0",
        "--trust-ark", platform.fingerprint, "--no-amd-roots", "--log-level", level, *options,
    ]  # fmt: skip
    popen = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SEALPOD_KBS_DATABASE": url, **(environment or {})},
        preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, cores),
    )
    assert popen.stderr is not None
    log: list[str] = []
    for line in popen.stderr:
        log.append(line)
        if line.startswith("listening on "):
            made = Process(popen, line.split()[-1], log)
            # Read on, or a full pipe would hold up the broker.
            made.reader = threading.Thread(target=_drain, args=(popen, log), daemon=True)
            made.reader.start()
            return made
    popen.wait(timeout=30)
    raise AssertionError(f"the broker did not start:\n{''.join(log)}")


def _drain(popen: subprocess.Popen[str], log: list[str]) -> None:
    assert popen.stderr is not None
    with popen.stderr:
        for line in popen.stderr:
            log.append(line)
            del log[:-2000]


@contextmanager
def running(url: str, platform: LoadPlatform, *options: str, **keywords: Any) -> Iterator[Process]:
    made = start(url, platform, *options, **keywords)
    try:
        yield made
    finally:
        if made.popen.poll() is None:
            made.kill()


class Caller:
    """A channel to one broker."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(
            address,
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)],
        )
        self._calls = {
            name: self.channel.unary_unary(SERVICE + name)
            for name in ("GetBundle", "GetSecret", "GetOnlineSecret")
        }

    def __call__(self, name: str, request: bytes, *, timeout: float = 20.0, wait: bool = False) -> bytes:
        reply: bytes = self._calls[name](request, timeout=timeout, wait_for_ready=wait)
        return reply

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def launch(self, platform: LoadPlatform, *details: tuple[str, str, str, str]) -> dict[str, bytes]:
        """One launch, start to end."""
        reply = pb.BundleResponse.FromString(self("GetBundle", platform.bundle_request()))
        measured = platform.measured(reply)
        return measured.open(self("GetSecret", measured.secret_request(*details)))


def code_of(error: grpc.RpcError) -> str:
    """The broker's own code of a refusal, or gRPC's name of the status."""
    extra = dict(error.trailing_metadata() or ())
    return str(extra.get("sealpod-code", error.code().name))


def until(deadline: float) -> Iterator[None]:
    """Turns until a deadline in seconds; for what becomes true, with nobody to say when."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        yield
        time.sleep(0.05)
    raise AssertionError(f"not within {deadline} seconds")

# SPDX-License-Identifier: Apache-2.0
"""`sealpod demo` keeps its promises: five scenarios, a report, and a key that shows nowhere on the host."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import secrets
import signal
import stat
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commandkit import Finished, Workplace
from labkit import Lab, phase

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SAMPLE_SECONDS = 0.02
RAN = ["inputs", "bundle", "start", "measure", "attest", "inject", "boot", "sandbox", "pull", "run", "stop"]
UNATTESTED = [name for name in RAN if name not in ("bundle", "attest", "inject")]
PHASES = {
    "plain": UNATTESTED,
    "offline": RAN,
    "online": RAN,
    "tampered": ["inputs", "bundle", "start", "measure", "attest"],
    "stranger": ["inputs", "bundle"],
}


@dataclass(frozen=True)
class Shown:
    """A demonstration that has ended."""

    directory: Path
    message: str
    finished: Finished
    seen: bytes
    """Command lines and environments of its processes, as they were while it ran."""

    @property
    def report(self) -> Any:
        return json.loads((self.directory / "report.json").read_text())

    @property
    def scenarios(self) -> dict[str, Any]:
        return {scenario["name"]: scenario for scenario in self.report["scenarios"]}

    @property
    def spellings(self) -> set[bytes]:
        """The image's key as it might be written somewhere."""
        key = (self.directory / "key").read_bytes()
        assert len(key) == 32
        return {
            key,
            key.hex().encode(),
            key.hex().upper().encode(),
            base64.b64encode(key).rstrip(b"="),
            base64.urlsafe_b64encode(key).rstrip(b"="),
        }

    def blob(self, digest: str) -> bytes:
        """A blob as the registry stores it."""
        algorithm, _, value = digest.partition(":")
        place = self.directory / "registry/data/docker/registry/v2/blobs" / algorithm / value[:2] / value
        data = (place / "data").read_bytes()
        assert hashlib.sha256(data).hexdigest() == value
        return data

    def manifest(self, tag: str) -> Any:
        repository = self.directory / "registry/data/docker/registry/v2/repositories/demo/app"
        return json.loads(self.blob((repository / f"_manifests/tags/{tag}/current/link").read_text()))


class Sampler:
    """Looks at the processes of a workplace again and again while the block runs."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: set[bytes] = set()

    def _look(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            for process in self._place.processes():
                self.seen |= {process.command.encode(), process.environment}

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture(scope="module")
def shown(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    directory = tmp_path_factory.mktemp("demo") / "out"
    message = f"planted {secrets.token_hex(8)}"
    words = ("demo", "--directory", str(directory), "--message", message, "--accelerator", lab.accelerator)
    with lab.place.unchanged():
        with Sampler(lab.place) as sampler:
            finished = lab.place.sealpod(*words)
        yield Shown(directory, message, finished, b"\n".join(sampler.seen))


def test_every_scenario_ends_as_it_must(shown: Shown) -> None:
    assert shown.finished.status == 0, shown.finished.stderr + shown.finished.stdout.decode()
    outcomes = {name: (one["outcome"], one["message"]) for name, one in shown.scenarios.items()}
    assert outcomes == {
        "plain": ("ran", shown.message),
        "offline": ("ran", shown.message),
        "online": ("ran", shown.message),
        "tampered": ("refused", ""),
        "stranger": ("refused", ""),
    }
    assert not any(shown.scenarios[name]["error"] for name in ("plain", "offline", "online"))
    assert "fw digest not valid" in shown.scenarios["tampered"]["error"]
    assert "[chain.untrusted-root]" in shown.scenarios["stranger"]["error"]


def test_the_report_has_the_documented_form(shown: Shown) -> None:
    assert list(shown.report) == ["schemaVersion", "scenarios"]
    assert shown.report["schemaVersion"] == 1
    for scenario in shown.report["scenarios"]:
        assert list(scenario) == ["name", "outcome", "message", "error", "launchDigest", "phases"]
        assert [part["name"] for part in scenario["phases"]] == PHASES[scenario["name"]]
        assert all(list(part) == ["name", "seconds"] and part["seconds"] >= 0 for part in scenario["phases"])
        assert len(bytes.fromhex(scenario["launchDigest"])) == 32


def test_digests_differ_where_the_command_line_does(shown: Shown) -> None:
    digests = {name: scenario["launchDigest"] for name, scenario in shown.scenarios.items()}
    assert digests.pop("stranger") == digests["offline"]
    assert len(set(digests.values())) == 4


def test_the_owner_reads_what_differs(shown: Shown) -> None:
    text = shown.finished.stdout.decode()
    assert "the command line differs: word " in text
    assert text.count(f"printed: {shown.message}") == 3


def test_the_key_is_in_no_command_line_or_environment(shown: Shown) -> None:
    # The sampler did see the processes it is about.
    for program in (b"qemu-system-x86_64", b"sealpod.platform.model", b"kbs serve", b"image encrypt"):
        assert program in shown.seen
    assert not [form for form in shown.spellings if form in shown.seen]


def test_the_key_is_in_no_file_but_the_owners_and_the_brokers(shown: Shown) -> None:
    holders = set()
    for path in (path for path in shown.directory.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if any(form in data for form in shown.spellings):
            holders.add(path.name)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert holders <= {"key", "kbs.db", "kbs.db-wal"}
    # The logs are among what was read, and not empty.
    assert b"policy.digest" in (shown.directory / "kbs.log").read_bytes()


def test_the_key_is_not_shown(shown: Shown) -> None:
    shown_text = shown.finished.stdout + shown.finished.stderr.encode()
    assert not [form for form in shown.spellings if form in shown_text]


def test_private_files_are_private(shown: Shown) -> None:
    for name in (".", "platform", "stranger"):
        assert stat.S_IMODE((shown.directory / name).stat().st_mode) == 0o700
    for name in ("key", "kbs.db", "platform/chip", "platform/identity"):
        assert stat.S_IMODE((shown.directory / name).stat().st_mode) == 0o600


def test_encrypted_layers_are_ciphertext(shown: Shown) -> None:
    layers = shown.manifest("encrypted")["layers"]
    assert layers
    for layer in layers:
        assert layer["mediaType"].endswith("+encrypted")
        data = shown.blob(layer["digest"])
        assert len(data) == layer["size"]
        assert data[:2] != b"\x1f\x8b"
        assert data[257:262] != b"ustar"
        assert shown.message.encode() not in data
        # Random bytes do not get smaller.
        assert len(zlib.compress(data)) >= len(data)


def test_the_plain_layer_shows_that_the_checks_above_can_fail(shown: Shown) -> None:
    (layer,) = shown.manifest("plain")["layers"]
    data = shown.blob(layer["digest"])
    assert layer["mediaType"].endswith("+gzip")
    assert data[:2] == b"\x1f\x8b"
    assert shown.message.encode() in gzip.decompress(data)


@pytest.mark.parametrize(
    ("when", "number", "status"),
    [
        ("starting a registry", signal.SIGTERM, 143),
        ("$ sealpod image encrypt", signal.SIGINT, 130),
        (f"plain: {phase('boot')}", signal.SIGINT, 130),
    ],
)
def test_interrupted_it_cleans_up_and_keeps_its_platforms(
    shown: Shown, lab: Lab, when: str, number: int, status: int
) -> None:
    chips = {name: (shown.directory / name / "chip").read_bytes() for name in ("platform", "stranger")}
    words = ("demo", "--directory", str(shown.directory), "--accelerator", lab.accelerator)
    with lab.place.unchanged(), lab.place.start(*words) as command:
        command.until(when)
        command.send(number)
        done = command.finish()
    assert done.status == status
    assert done.error()["remedy"]
    assert chips == {name: (shown.directory / name / "chip").read_bytes() for name in chips}
    # No report of a demonstration that did not take place.
    assert not (shown.directory / "report.json").exists()

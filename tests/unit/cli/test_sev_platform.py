# SPDX-License-Identifier: Apache-2.0
"""The commands of ``sealpod sev`` that ask a platform: a model's process, and a scripted ``/dev/sev``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from platformkit import DeviceDriver

from sealpod.cli import sev_chain
from sealpod.cli.main import dispatch
from sealpod.errors import (
    AccessError,
    ConflictError,
    FirmwareError,
    NotFoundError,
    SealpodError,
    UnavailableError,
    VerificationError,
)
from sealpod.platform.model.asids import AsidTable
from sealpod.platform.model.chip import Chip
from sealpod.platform.model.store import StateDirectory, rsa_key
from sealpod.sev.authority import Authority
from sealpod.sev.cert import Certificate, Signature
from sealpod.sev.chain import Chain, PlatformChain, verify_chain
from sealpod.sev.owner import encode_key, make_owner
from sealpod.sev.text import describe

Out = Callable[[], str]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A state directory with a chip, whose keys take seconds to make, and no identity."""
    path = str(tmp_path_factory.mktemp("template") / "platform")
    StateDirectory(path).chip(os.urandom, rsa_key, lambda: None)
    return path


@pytest.fixture
def state(template: str, tmp_path: Path) -> str:
    shutil.copytree(template, tmp_path / "platform")
    os.chmod(tmp_path / "platform", 0o700)
    return str(tmp_path / "platform")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> Out:
    return lambda: capsys.readouterr().out


class KeyServer:
    """AMD's key server: it knows one chip."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self.asked: list[bytes] = []

    def signed_chain(self, identifier: bytes, exported: PlatformChain) -> PlatformChain:
        self.asked.append(identifier)
        return exported.with_cek(Certificate.decode(self.chip.cek))

    def authority_of(self, cek: Certificate) -> Authority:
        assert cek.encode() == self.chip.cek
        return Authority.decode(self.chip.ask + self.chip.ark)


@pytest.fixture(params=["model", "device"])
def sev(request: pytest.FixtureRequest, state: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``sealpod sev``, on each platform."""
    if request.param == "model":
        return lambda *words: dispatch(["sev", *words, "--platform", "model", "--platform-state", state])
    chip = StateDirectory(state).chip(os.urandom, rsa_key, lambda: None)

    async def open_device(*_: Any, **__: Any) -> Any:
        return await DeviceDriver().open(state)

    monkeypatch.setattr("sealpod.platform.open.open_platform", open_device)
    monkeypatch.setattr(sev_chain, "_service", lambda args: KeyServer(chip))
    return lambda *words: dispatch(["sev", *words, "--platform", "device"])


def chain_of(path: Path) -> Chain:
    chain = Chain.decode(path.read_bytes())
    verify_chain(chain, {chain.ark.sha256: "test"})
    return chain


def show(sev: Callable[..., int], out: Out, fact: str) -> str:
    out()
    assert sev("show", fact) == 0
    return out().rstrip("\n")


def test_export_signs_the_cek_and_adds_the_authority(sev: Callable[..., int], here: Path, out: Out) -> None:
    assert sev("export", "--full", "full") == 0
    assert sev("export", "short") == 0
    full = chain_of(here / "full")
    assert (here / "full").read_bytes()[:8336] == (here / "short").read_bytes()
    assert full.cek.signatures[0] != Signature()
    out()
    sev("export", "-f", "full", "-o", "json")
    report = json.loads(out())
    assert report["arkSha256"] == full.ark.sha256
    assert report["pdh"] == describe(full.pdh)
    assert len(report["identifier"]) == 128


def test_export_with_an_authority_by_hand(sev: Callable[..., int], here: Path) -> None:
    sev("export", "-f", "full")
    (here / "ca").write_bytes(chain_of(here / "full").authority.encode())
    assert sev("export", "-f", "again", "--ca", "ca") == 0
    assert (here / "again").read_bytes() == (here / "full").read_bytes()


def test_guests_of_other_processes_count_and_hold_the_identity(state: str, here: Path, out: Out) -> None:
    def sev(*words: str) -> int:
        return dispatch(["sev", *words, "--platform", "model", "--platform-state", state])

    dispatch(["sev", "generate", "oca", "key"])
    launcher = AsidTable(state)
    try:
        launcher.take(es=False)
        assert show(sev, out, "guests") == "1"
        with pytest.raises(ConflictError) as busy:
            sev("reset")
        assert busy.value.code == "platform.busy"
        with pytest.raises(FirmwareError) as refused:
            sev("provision", "oca", "key")
        assert refused.value.code == "sev.invalid-platform-state"
        assert "end the guests" in refused.value.remedy
        assert sev("rotate") == 0
    finally:
        launcher.close()
    assert show(sev, out, "guests") == "0"
    assert sev("provision", "oca", "key") == 0


def test_show(sev: Callable[..., int], out: Out) -> None:
    assert show(sev, out, "version") == "0.24.15"
    assert show(sev, out, "guests") == "0"
    identifier = show(sev, out, "identifier")
    assert identifier == identifier.upper()
    assert len(bytes.fromhex(identifier)) == 64
    assert show(sev, out, "flags") == "es"


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("version", {"apiMajor": 0, "apiMinor": 24, "build": 15}),
        ("flags", {"owned": False, "es": True}),
        ("guests", 0),
    ],
)
def test_show_as_json(sev: Callable[..., int], out: Out, fact: str, value: object) -> None:
    sev("show", fact, "-o", "json")
    report = json.loads(out())
    assert (report["schemaVersion"], report[fact]) == (1, value)
    assert report["platform"] in ("model", "device")


def test_verify_asks_the_platform(sev: Callable[..., int], here: Path, out: Out) -> None:
    sev("export", "-f", "full")
    out()
    assert sev("verify") == 0
    assert out().splitlines()[0] == describe(chain_of(here / "full").pdh)


def test_a_platforms_ownership(sev: Callable[..., int], here: Path, out: Out) -> None:
    """generate, provision, export, verify, rotate, reset: who a platform is at each step."""
    sev("export", "-f", "before")
    assert dispatch(["sev", "generate", "oca.cert", "oca.key"]) == 0
    oca = Certificate.decode((here / "oca.cert").read_bytes())
    assert sev("provision", "oca.cert", "oca.key") == 0
    assert show(sev, out, "flags").splitlines() == ["owned", "es"]

    sev("export", "-f", "owned")
    before, owned = chain_of(here / "before"), chain_of(here / "owned")
    assert owned.oca == oca
    assert owned.pek.body == before.pek.body
    assert owned.pdh != before.pdh
    assert sev("verify", "--oca", "oca.cert") == 0
    assert sev("verify", "--sev", "owned", "--ca", "before", "--oca", "oca.cert") == 0
    with pytest.raises(VerificationError) as caught:
        sev("verify", "--sev", "before", "--ca", "before", "--oca", "oca.cert")
    assert caught.value.code == "chain.pek-oca"

    with pytest.raises(FirmwareError, match=r"^failed to import the newly-signed PEK: ") as refused:
        sev("provision", "oca.cert", "oca.key")
    assert refused.value.code == "sev.already-owned"
    assert "reset" in refused.value.remedy

    assert sev("rotate") == 0
    sev("export", "-f", "rotated")
    rotated = chain_of(here / "rotated")
    assert (rotated.pek, rotated.oca) == (owned.pek, owned.oca)
    assert rotated.pdh != owned.pdh

    assert sev("reset") == 0
    assert show(sev, out, "flags") == "es"
    sev("export", "-f", "after")
    after = chain_of(here / "after")
    assert after.cek.body == before.cek.body
    known = {one.body for chain in (before, owned, rotated) for one in (chain.oca, chain.pek, chain.pdh)}
    assert not known & {after.oca.body, after.pek.body, after.pdh.body}


def test_what_is_lost_is_said(
    sev: Callable[..., int], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dispatch(["sev", "generate", "oca.cert", "oca.key"])
    for words, loss in (
        (("provision", "oca.cert", "oca.key"), "sessions made for the old PDH are worthless"),
        (("rotate",), "sessions made for the old PDH are worthless"),
        (("reset",), "OCA, PEK and PDH and its ownership are gone"),
    ):
        capsys.readouterr()
        sev(*words, "-o", "json")
        out, err = capsys.readouterr()
        report = json.loads(out)
        assert report["owned"] == (words != ("reset",))
        assert report["pdh"].startswith("PDH EP384 D256 ")
        assert loss in err


def test_an_owners_key_must_be_the_certificates(sev: Callable[..., int], here: Path, out: Out) -> None:
    from sevkit import vector_key

    owner = make_owner(vector_key("oca"))
    (here / "oca.cert").write_bytes(owner.oca.encode())
    (here / "other.key").write_bytes(encode_key(vector_key("pek")).reveal())
    (here / "no.key").write_bytes(b"no key")
    for words, text in (
        (("oca.cert", "other.key"), "failed to decode OCA private key: it is not the key"),
        (("oca.cert", "no.key"), "failed to decode OCA private key: no unencrypted"),
        (("no.key", "no.key"), "failed to decode OCA: "),
        (("missing", "no.key"), "no such file: missing"),
    ):
        with pytest.raises(SealpodError) as caught:
            sev("provision", *words)
        assert caught.value.message.startswith(text)
    assert show(sev, out, "flags") == "es"


def test_generate_keeps_an_owners_key(here: Path, out: Out) -> None:
    dispatch(["sev", "generate", "oca.cert", "oca.key", "-o", "json"])
    report = json.loads(out())
    assert report["oca"] == describe(Certificate.decode((here / "oca.cert").read_bytes()))
    assert (here / "oca.key").stat().st_mode & 0o777 == 0o600
    before = {name: (here / name).read_bytes() for name in ("oca.cert", "oca.key")}
    with pytest.raises(SealpodError) as caught:
        dispatch(["sev", "generate", "oca.cert", "oca.key"])
    assert caught.value.code == "output.exists"
    assert {name: (here / name).read_bytes() for name in before} == before
    assert dispatch(["sev", "generate", "--force", "oca.cert", "oca.key"]) == 0
    assert (here / "oca.key").read_bytes() != before["oca.key"]


def test_a_failing_firmware_is_told_under_sevctls_sentence(
    here: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sealpod.platform.model.client import ModelPlatform
    from sealpod.sev.status import Status

    async def refuse(*_: object) -> None:
        raise Status.HWERROR_PLATFORM.error("broken")

    for method, words, text in (
        ("reset", ("reset",), "error resetting platform: "),
        ("pdh_gen", ("rotate",), "unable to rotate PDH: "),
        ("pek_csr", ("provision", "oca.cert", "oca.key"), "cross signing request failed: "),
        ("identifier", ("show", "identifier"), "error fetching identifier: "),
        ("pdh_cert_export", ("export", "chain"), "unable to export SEV certificates: "),
        ("status", ("show", "version"), "unable to fetch platform status: "),
    ):
        if words[0] == "provision":
            dispatch(["sev", "generate", *words[1:]])
        monkeypatch.setattr(ModelPlatform, method, refuse)
        with pytest.raises(FirmwareError) as caught:
            dispatch(["sev", *words, "--platform", "model", "--platform-state", state])
        assert caught.value.message.startswith(text)
        assert caught.value.status == Status.HWERROR_PLATFORM
    assert not (here / "chain").exists()


def test_a_platform_that_may_not_be_asked_is_told_under_sevctls_sentence(
    here: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sealpod.platform.model.client import ModelPlatform

    async def forbid(*_: object) -> None:
        raise AccessError("PLATFORM_STATUS on /dev/sev: no", code="platform.access", remedy="be root")

    monkeypatch.setattr(ModelPlatform, "status", forbid)
    with pytest.raises(AccessError) as caught:
        dispatch(["sev", "show", "flags", "--platform", "model", "--platform-state", state])
    assert caught.value.message == "unable to fetch platform status: PLATFORM_STATUS on /dev/sev: no"
    assert (caught.value.code, caught.value.remedy) == ("platform.access", "be root")


def test_a_machine_without_the_device_says_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.path.exists("/dev/sev"):
        pytest.skip("this machine has /dev/sev")
    for words in (("export", "x"), ("show", "version"), ("verify",), ("rotate",), ("reset",)):
        with pytest.raises(NotFoundError, match=r"^unable to open /dev/sev: "):
            dispatch(["sev", *words, "--platform", "device"])
    assert os.listdir(here) == []


def test_offline_without_a_signed_cek(here: Path, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_device(*_: Any, **__: Any) -> Any:
        return await DeviceDriver().open(state)

    monkeypatch.setattr("sealpod.platform.open.open_platform", open_device)
    monkeypatch.setattr("sealpod.platform.kds.SYSTEM_CACHE", str(here / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    with pytest.raises(UnavailableError) as caught:
        dispatch(["sev", "export", "--offline", "--platform", "device", "x"])
    assert caught.value.code == "kds.offline"
    assert os.listdir(here) == []


def test_an_owner_and_a_host_in_processes_of_their_own(here: Path, state: str) -> None:
    """What two people type, on two machines that share files only."""

    def run(*words: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sealpod.cli.main", "sev", *words],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done.stdout

    host = ("--platform", "model", "--platform-state", state)
    exported = run("export", "--full", "chain", *host)
    ark = hashlib.sha256((here / "chain").read_bytes()[-1600:]).hexdigest()
    assert ark in exported
    run("cert", "split", "chain")
    run("session", "--ca", ".", "--name", "vm", "chain", "3")
    assert {name for name in os.listdir(here) if name.startswith("vm_")} == {
        "vm_tik.bin", "vm_tek.bin", "vm_godh.b64", "vm_session.b64",
    }  # fmt: skip
    run("verify", "--sev", "chain", status=3)
    run("verify", "--sev", "chain", "--ca", ".")
    run("rotate", *host)
    run("export", "now", *host)
    assert (here / "now").read_bytes() != (here / "chain").read_bytes()[:8336]

# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev verify``, ``validate``, ``cert`` and ``vmsa`` on files."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from ovmfkit import FULL, NO_FOOTER, build_image
from sevkit import Hierarchy, new_hierarchy, vector_key

from sealpod.cli import sev_chain
from sealpod.cli.main import dispatch
from sealpod.errors import (
    AccessError,
    DecodeError,
    NotFoundError,
    OperationError,
    SealpodError,
    UnavailableError,
    UsageError,
    VerificationError,
)
from sealpod.sev.authority import Authority, detect
from sealpod.sev.cert import Certificate, Signature
from sealpod.sev.owner import make_owner
from sealpod.sev.policy import Policy
from sealpod.sev.report import make_report
from sealpod.sev.text import describe

LEGEND = " • = self signed, ⬑ = signs, •̷ = invalid self sign, ⬑̸ = invalid signs"
NAMES = ("pdh", "pek", "oca", "cek", "ask", "ark")


@pytest.fixture(scope="module")
def hierarchy() -> Hierarchy:
    return new_hierarchy(2048)


@pytest.fixture(scope="module")
def stranger() -> Hierarchy:
    return new_hierarchy(2048)


@pytest.fixture
def here(tmp_path: Path, hierarchy: Hierarchy, stranger: Hierarchy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a chain in all its forms, and no key server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sealpod.platform.kds.SYSTEM_CACHE", str(tmp_path / "cache"))
    for name, data in {
        "chain": hierarchy.chain.encode(),
        "short": hierarchy.chain.platform.encode(),
        "ca": hierarchy.chain.authority.encode(),
        "strange-ca": stranger.chain.authority.encode(),
    }.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def sev(*words: str) -> int:
    return dispatch(["sev", *words])


# --- verify --------------------------------------------------------------------------------------------


def drawn(hierarchy: Hierarchy, broken: str = "") -> list[str]:
    """The lines sevctl prints; ``broken`` is the certificate that does not sign the one before."""
    text = {name: describe(getattr(hierarchy.chain, name)) for name in NAMES}
    mark = {name: "⬑̸" if name == broken else "⬑" for name in NAMES}
    return [
        text["pdh"],
        f" {mark['pek']} {text['pek']}",
        f"   •{mark['oca']} {text['oca']}",
        f"    {mark['cek']} {text['cek']}",
        f"       {mark['ask']} {text['ask']}",
        f"         •{mark['ark']} {text['ark']}",
        "",
        LEGEND,
    ]


@pytest.mark.parametrize(("file", "ca"), [("chain", "ca"), ("short", "ca"), ("short", "chain")])
def test_a_chain_is_drawn_as_sevctl_draws_it(
    here: Path, hierarchy: Hierarchy, file: str, ca: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sev("verify", "--sev", file, "--ca", ca) == 0
    assert capsys.readouterr().out.splitlines() == drawn(hierarchy)


def test_colours_are_for_terminals(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    sev("verify", "--sev", "short", "--ca", "ca")
    assert "\x1b[32m⬑\x1b[0m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    sev("verify", "--sev", "short", "--ca", "ca")
    assert "\x1b" not in capsys.readouterr().out


def directory_as_sev_tool(here: Path, hierarchy: Hierarchy) -> None:
    (here / "ca-dir").mkdir()
    (here / "ca-dir" / "ask.cert").write_bytes(hierarchy.chain.ask.encode())
    (here / "ca-dir" / "ark.cert").write_bytes(hierarchy.chain.ark.encode())


def directory_of_generations(here: Path, hierarchy: Hierarchy, stranger: Hierarchy) -> None:
    (here / "ca-dir").mkdir()
    (here / "ca-dir" / "ask_ark_naples.cert").write_bytes(stranger.chain.authority.encode())
    (here / "ca-dir" / "ask_ark_milan.cert").write_bytes(hierarchy.chain.authority.encode())


def test_the_authority_may_be_a_directory(here: Path, hierarchy: Hierarchy) -> None:
    directory_as_sev_tool(here, hierarchy)
    assert sev("verify", "--sev", "short", "--ca", "ca-dir") == 0


def test_the_generation_is_found_in_a_directory(
    here: Path, hierarchy: Hierarchy, stranger: Hierarchy
) -> None:
    directory_of_generations(here, hierarchy, stranger)
    assert sev("verify", "--sev", "short", "--ca", "ca-dir") == 0
    (here / "ca-dir" / "ask_ark_milan.cert").write_bytes(stranger.chain.authority.encode())
    with pytest.raises(
        NotFoundError, match="failed to deduce platform generation: could not find a matching"
    ):
        sev("verify", "--sev", "short", "--ca", "ca-dir")
    for name in os.listdir("ca-dir"):
        os.unlink(f"ca-dir/{name}")
    with pytest.raises(NotFoundError) as caught:
        sev("verify", "--sev", "short", "--ca", "ca-dir")
    assert caught.value.code == "ca.absent"


def test_a_damaged_download_is_named_where_no_authority_fits(
    here: Path, hierarchy: Hierarchy, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KeyServer:
        cache = "/cache/kds"

        def authority_of(self, cek: Certificate) -> Authority:
            return detect(cek, ())

    monkeypatch.setattr(sev_chain, "_service", lambda args: KeyServer())
    with pytest.raises(NotFoundError, match="failed to deduce platform generation") as caught:
        sev("verify", "--sev", "short")
    assert "remove /cache/kds" in caught.value.remedy


def test_the_chain_may_be_in_the_files_of_sev_tool(here: Path, hierarchy: Hierarchy) -> None:
    """Its pdh.cert, cert_chain.cert (PEK, OCA, unsigned CEK), cek.cert from AMD, and ask_ark.cert."""
    chain = hierarchy.chain
    unsigned = replace(chain.cek, signatures=(Signature(), Signature()))
    exported = chain.pek.encode() + chain.oca.encode() + unsigned.encode()
    (here / "tool").mkdir()
    (here / "tool" / "pdh.cert").write_bytes(chain.pdh.encode())
    (here / "tool" / "cert_chain.cert").write_bytes(exported)
    with pytest.raises(VerificationError) as caught:
        sev("verify", "--sev", "tool", "--ca", "ca")
    assert caught.value.code == "chain.cek"
    (here / "tool" / "cek.cert").write_bytes(chain.cek.encode())
    assert sev("verify", "--sev", "tool", "--ca", "ca") == 0
    with pytest.raises(UnavailableError):
        sev("verify", "--sev", "tool", "--offline")
    (here / "tool" / "ask_ark.cert").write_bytes(chain.authority.encode())
    assert sev("verify", "--sev", "tool", "--ca", "tool") == 0
    with pytest.raises(VerificationError) as caught:
        sev("verify", "--sev", "tool", "--offline")
    assert caught.value.code == "chain.untrusted-root"


def test_an_authority_that_did_not_sign_is_shown(
    here: Path, hierarchy: Hierarchy, stranger: Hierarchy, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(VerificationError, match=r"^SEV/CA certificate verification failed: ASK") as caught:
        sev("verify", "--sev", "short", "--ca", "strange-ca")
    assert caught.value.code == "chain.cek"
    mixed = replace(hierarchy, chain=hierarchy.chain.platform.under(stranger.chain.authority))
    assert capsys.readouterr().out.splitlines() == drawn(mixed, broken="ask")


def test_an_unknown_root_needs_to_be_named(
    here: Path, hierarchy: Hierarchy, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every link holds, and yet anybody can have made them."""
    with pytest.raises(VerificationError) as caught:
        sev("verify", "--sev", "chain", "-o", "json")
    assert caught.value.code == "chain.untrusted-root"
    assert hierarchy.chain.ark.sha256 in caught.value.message
    report = json.loads(capsys.readouterr().out)
    assert (report["verified"], report["root"]) == (False, None)
    assert all(link["valid"] for link in report["links"])


def test_verify_as_json(here: Path, hierarchy: Hierarchy, capsys: pytest.CaptureFixture[str]) -> None:
    sev("verify", "--sev", "short", "--ca", "ca", "-o", "json")
    report = json.loads(capsys.readouterr().out)
    assert report["schemaVersion"] == 1
    assert (report["verified"], report["root"]) == (True, "ca")
    assert report["arkSha256"] == hierarchy.chain.ark.sha256
    assert report["certificates"] == {name: describe(getattr(hierarchy.chain, name)) for name in NAMES}
    assert [(link["issuer"], link["subject"]) for link in report["links"]] == [
        ("ARK", "ARK"), ("ARK", "ASK"), ("ASK", "CEK"), ("OCA", "OCA"), ("OCA", "PEK"), ("CEK", "PEK"),
        ("PEK", "PDH"),
    ]  # fmt: skip


def test_an_oca_from_a_file(here: Path, hierarchy: Hierarchy, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "oca").write_bytes(hierarchy.chain.oca.encode())
    assert sev("verify", "--sev", "short", "--ca", "ca", "--oca", "oca") == 0
    (here / "oca").write_bytes(make_owner(vector_key("godh")).oca.encode())
    with pytest.raises(VerificationError) as caught:
        sev("verify", "--sev", "short", "--ca", "ca", "--oca", "oca", "-o", "json")
    assert caught.value.code == "chain.pek-oca"
    report = json.loads(capsys.readouterr().out.partition("{\n")[2].join(["{\n", ""]))
    assert [link["valid"] for link in report["links"]] == [True, True, True, True, False, True, True]
    (here / "oca").write_bytes(hierarchy.chain.pek.encode())
    with pytest.raises(DecodeError, match=r"^unable to decode OCA: a PEK in place of an OCA"):
        sev("verify", "--sev", "short", "--ca", "ca", "--oca", "oca")


def test_a_changed_certificate_is_marked(
    here: Path, hierarchy: Hierarchy, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(hierarchy.chain.encode())
    data[0x4] ^= 1  # the PDH's API version: signed, and free to choose
    (here / "chain").write_bytes(data)
    with pytest.raises(VerificationError) as caught:
        sev("verify", "--sev", "chain", "--ca", "ca")
    assert caught.value.code == "chain.pdh"
    assert capsys.readouterr().out.splitlines()[1].startswith(" ⬑̸ PEK")


def test_a_short_chain_of_nobody_known_offline(here: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        sev("verify", "--sev", "short", "--offline")
    assert caught.value.code == "kds.offline"


def test_amds_authority_comes_from_the_key_server(
    here: Path, hierarchy: Hierarchy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's answer is checked against the pins, so this platform's own authority is refused there."""

    class Service:
        def authority_of(self, cek: object) -> object:
            return hierarchy.chain.authority

    monkeypatch.setattr(sev_chain, "_service", lambda args: Service())
    with pytest.raises(VerificationError) as caught:
        sev("verify", "--sev", "short")
    assert caught.value.code == "chain.untrusted-root"
    monkeypatch.setattr("sealpod.sev.roots.AMD_ARKS", {hierarchy.chain.ark.sha256: "AMD Milan"})
    assert sev("verify", "--sev", "short") == 0


@pytest.mark.parametrize(
    ("words", "family", "text"),
    [
        (("--sev", "missing"), NotFoundError, "SEV certificate chain file missing"),
        (("--sev", "ca"), DecodeError, "unable to decode chain"),
        (("--sev", "short", "--ca", "missing"), NotFoundError, "CA certificate chain file missing"),
        (("--sev", "short", "--ca", "short"), DecodeError, "unable to decode chain"),
        (("--sev", "short", "--ca", "ca", "--oca", "missing"), NotFoundError, "OCA certificate file missing"),
        (("--sev", "short", "--ca", "ca", "--oca", "ca"), DecodeError, "unable to decode OCA"),
    ],
)
def test_verify_files_that_are_none(
    here: Path, words: tuple[str, ...], family: type[SealpodError], text: str
) -> None:
    with pytest.raises(family, match=text):
        sev("verify", *words)


def test_quiet_prints_nothing_and_tells_by_status(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sev("-q", "verify", "--sev", "short", "--ca", "ca") == 0
    assert sev("--quiet", "verify", "--sev", "chain") == VerificationError.exit_status
    assert sev("-q", "verify", "--sev", "missing") == NotFoundError.exit_status
    assert capsys.readouterr() == ("", "")


def test_large_files_are_not_read(here: Path) -> None:
    (here / "huge").write_bytes(bytes(70_000))
    with pytest.raises(OperationError) as caught:
        sev("verify", "--sev", "huge")
    assert caught.value.code == "file.large"


# --- validate ------------------------------------------------------------------------------------------

DIGEST = hashlib.sha256(b"sev-test-vector firmware").digest()
MNONCE = bytes(range(16))


@pytest.fixture
def report(here: Path, hierarchy: Hierarchy) -> bytes:
    data = make_report(MNONCE, DIGEST, Policy(3), hierarchy.ec_keys["pek"]).encode()
    (here / "report").write_bytes(data)
    return data


def test_the_report_is_that_of_the_vectors(report: bytes) -> None:
    digest = "f2fe2c9d4fed951fd83385e92410bfd5f90df4e1c1df1741199dbf86626a8949"
    assert hashlib.sha256(report).hexdigest() == digest


def test_both_spellings(
    here: Path, hierarchy: Hierarchy, report: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dir", "pek-dir"):
        (here / name).mkdir()
    (here / "dir" / "attestation_report.bin").write_bytes(report)
    (here / "pek-dir" / "pek.cert").write_bytes(hierarchy.chain.pek.encode())
    for words in (
        ("chain", "report"),
        ("short", "report"),
        ("-p", "pek-dir", "-a", "dir"),
        ("--pek", "pek-dir/pek.cert", "--attestation-report", "report"),
    ):
        assert sev("validate", *words) == 0
        out, err = capsys.readouterr()
        assert DIGEST.hex() in out
        assert "not verified" in err


def test_validate_as_json_with_its_chain(
    here: Path, hierarchy: Hierarchy, report: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sev("validate", "short", "report", "--ca", "ca", "-o", "json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "schemaVersion": 1,
        "verified": True,
        "nonce": MNONCE.hex(),
        "launchDigest": DIGEST.hex(),
        "policy": 3,
        "pek": describe(hierarchy.chain.pek),
    }
    assert err == ""
    with pytest.raises(VerificationError) as caught:
        sev("validate", "short", "report", "--ca", "strange-ca")
    assert caught.value.code == "chain.cek"


def test_upstream_bug_report_verifier_is_not_copied(here: Path, report: bytes) -> None:
    """sevctl's verifier accepts everything or nothing; here each signed byte counts."""
    for position in (*range(0x34), *range(0x40, 0x70), *range(0x88, 0xB8)):
        changed = bytearray(report)
        changed[position] ^= 0x10
        (here / "changed").write_bytes(changed)
        with pytest.raises(VerificationError, match=r"^PEK does not sign the attestation report"):
            sev("validate", "chain", "changed")


def test_what_a_report_must_say(here: Path, report: bytes, stranger: Hierarchy) -> None:
    import base64

    def b64(data: bytes) -> str:
        return base64.b64encode(data).decode()

    good = ("--nonce", b64(MNONCE), "--launch-digest", b64(DIGEST), "--policy", "0x3")
    assert sev("validate", "chain", "report", *good) == 0
    for words in (
        ("--nonce", b64(bytes(16))),
        ("--launch-digest", b64(bytes(32))),
        ("--policy", "1"),
    ):
        with pytest.raises(VerificationError) as caught:
            sev("validate", "chain", "report", *words)
        assert caught.value.code == "report.mismatch"


@pytest.mark.parametrize(
    ("words", "family", "text"),
    [
        (("chain",), UsageError, "CHAIN and REPORT"),
        ((), UsageError, "CHAIN and REPORT"),
        (("-p", "chain"), UsageError, "together"),
        (("-a", "report", "chain"), UsageError, "together"),
        (("-p", "chain", "-a", "report", "--ca", "ca"), UsageError, "--ca"),
        (("chain", "short"), DecodeError, r"^Unexpected report size encountered\."),
        (("ca", "report"), DecodeError, "^unable to decode chain"),
        (("missing", "report"), NotFoundError, "SEV certificate chain file"),
        (("-p", "chain", "-a", "report"), VerificationError, "not a PEK"),
    ],
)
def test_validate_arguments_are_checked(
    here: Path, report: bytes, words: tuple[str, ...], family: type[SealpodError], text: str
) -> None:
    with pytest.raises(family, match=text):
        sev("validate", *words)


# --- cert ----------------------------------------------------------------------------------------------


def test_cert_show(here: Path, hierarchy: Hierarchy, capsys: pytest.CaptureFixture[str]) -> None:
    assert sev("cert", "show", "chain") == 0
    expected = [describe(getattr(hierarchy.chain, name)) for name in NAMES]
    assert capsys.readouterr().out.splitlines() == expected
    sev("cert", "show", "ca")
    assert capsys.readouterr().out.splitlines() == expected[4:]
    sev("cert", "show", "chain", "-o", "json")
    report = json.loads(capsys.readouterr().out)
    assert [one["usage"] for one in report["certificates"]] == ["PDH", "PEK", "OCA", "CEK", "ASK", "ARK"]
    pek, ark = report["certificates"][1], report["certificates"][5]
    assert (pek["signedBy"], pek["api"], pek["algorithm"]) == (["OCA", "CEK"], "0.24", "ECDSA_SHA256")
    assert (ark["keyId"], ark["sha256"]) == ((b"A" * 16).hex(), hierarchy.chain.ark.sha256)


def test_an_unknown_signer_is_shown_by_number(
    here: Path, hierarchy: Hierarchy, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = replace(hierarchy.chain.pdh, signatures=(Signature(0x77, 2, bytes(512)), Signature()))
    (here / "pdh").write_bytes(strange.encode())
    sev("cert", "show", "pdh", "-o", "json")
    assert json.loads(capsys.readouterr().out)["certificates"][0]["signedBy"] == ["0x0077"]


def test_cert_split_and_back(here: Path, hierarchy: Hierarchy, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "out").mkdir()
    assert sev("cert", "split", "chain", "out") == 0
    names = ["pdh.cert", "pek.cert", "oca.cert", "cek.cert", "ask.cert", "ark.cert"]
    assert capsys.readouterr().out.splitlines() == [f"out/{name}" for name in names]
    assert sorted(os.listdir("out")) == sorted(names)
    assert b"".join((here / "out" / name).read_bytes() for name in names) == hierarchy.chain.encode()
    assert sev("verify", "--sev", "short", "--ca", "out", "--oca", "out/oca.cert") == 0
    assert sev("verify", "--sev", "out", "--ca", "out") == 0
    with pytest.raises(VerificationError) as caught:
        sev("verify", "--sev", "out")
    assert caught.value.code == "chain.untrusted-root"
    (here / "out" / "cek.cert").unlink()
    with pytest.raises(NotFoundError, match=r"out/cek\.cert"):
        sev("verify", "--sev", "out", "--ca", "ca")
    capsys.readouterr()
    sev("cert", "split", "ca", "-o", "json")
    assert json.loads(capsys.readouterr().out)["files"] == ["ask.cert", "ark.cert"]


def test_split_writes_nothing_of_what_is_no_chain(here: Path, hierarchy: Hierarchy) -> None:
    (here / "two").write_bytes(hierarchy.chain.pdh.encode() * 2)
    (here / "cut").write_bytes(hierarchy.chain.encode()[:-1])
    (here / "out").mkdir()
    for name in ("two", "cut"):
        with pytest.raises(DecodeError):
            sev("cert", "split", name, "out")
    assert os.listdir("out") == []
    with pytest.raises(NotFoundError) as caught:
        sev("cert", "split", "chain", "missing")
    assert caught.value.code == "output.directory"


def test_files_without_permission_are_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    def refuse(path: str, *args: object, **options: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(AccessError) as caught:
        sev("cert", "show", "chain")
    assert caught.value.code == "file.permission"


# --- vmsa ----------------------------------------------------------------------------------------------

MILAN = ("--family", "25", "--model", "1", "--stepping", "1")


@pytest.fixture
def ovmf(here: Path) -> Path:
    (here / "ovmf").write_bytes(build_image(FULL))
    return here


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("cpu", ["0", "1"])
def test_vmsa_build_gives_sevctls_pages(ovmf: Path, cpu: str, capsys: pytest.CaptureFixture[str]) -> None:
    build = ("vmsa", "build", "page", "--cpu", cpu, "--userspace", "qemu", *MILAN, "--firmware", "ovmf")
    assert sev(*build) == 0
    assert capsys.readouterr() == ("", "")
    # The synthetic image has the reset address of sevctl's test image, 0x80b004.
    assert (
        digest_of(ovmf / "page")
        == {
            "0": "f8b52f775502472e5797d2674d9de21f6abc05dc05e9bc49cbb7b6a13688d5e7",
            "1": "bcee5cb289f72882da17abd8dca5e8a7e9f8e2033e7ad96b4db0ab1a383a6487",
        }[cpu]
    )


def test_vmsa_update_makes_the_other_page(ovmf: Path) -> None:
    qemu = ("--userspace", "qemu", *MILAN, "--firmware", "ovmf")
    sev("vmsa", "build", "page", "--cpu", "0", *qemu)
    first = (ovmf / "page").read_bytes()
    sev("vmsa", "update", "page", "--cpu", "0", *qemu)
    assert (ovmf / "page").read_bytes() == first
    sev("vmsa", "update", "page", "--cpu", "1", *qemu)
    assert digest_of(ovmf / "page") == "bcee5cb289f72882da17abd8dca5e8a7e9f8e2033e7ad96b4db0ab1a383a6487"


def test_vmsa_show_is_sevctls_json(ovmf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sev("vmsa", "build", "page", "--cpu", "0", "--userspace", "qemu", *MILAN)
    assert sev("vmsa", "show", "page") == 0
    shown = capsys.readouterr().out
    digest = "d23c4404b5c2293026bc85e80ef915b5b2e53bb48ee5243bd60bcc56859dfbad"
    assert hashlib.sha256(shown.rstrip("\n").encode()).hexdigest() == digest
    sev("vmsa", "show", "page", "-o", "json")
    assert json.loads(capsys.readouterr().out) == {"schemaVersion": 1, **json.loads(shown)}


def test_vmsa_of_another_vcpu_without_firmware_warns(ovmf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sev("vmsa", "build", "page", "--cpu", "1", "--userspace", "qemu", *MILAN, "-o", "json")
    out, err = capsys.readouterr()
    assert "start address of CPU 0" in err
    assert json.loads(out) == {"schemaVersion": 1, "file": "page", "sha256": digest_of(ovmf / "page")}
    sev("vmsa", "build", "page", "--cpu", "1", "--userspace", "krun", *MILAN)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "family", "text"),
    [
        (("show", "ovmf"), DecodeError, "^Expected VMSA length 4096, was 65536"),
        (("show", "missing"), NotFoundError, "no such file"),
        (("update", "ca", "--cpu", "0", "--userspace", "qemu"), DecodeError, "was 1664"),
        (("build", "p", "--cpu", "x", "--userspace", "qemu"), UsageError, "--cpu=x value must be int or hex"),
        (("build", "p", "--cpu", "0", "--userspace", "qemu", "--model", "256"), UsageError, "model"),
        (("build", "p", "--cpu", "0", "--userspace", "qemu", "--firmware", "plain"), OperationError,
         "^error getting OVMF reset address"),
        (("build", "p", "--cpu", "0", "--userspace", "qemu", "--firmware", "tiny"), DecodeError, "OVMF"),
    ],
)  # fmt: skip
def test_vmsa_arguments_are_checked(
    ovmf: Path, words: tuple[str, ...], family: type[SealpodError], text: str
) -> None:
    (ovmf / "plain").write_bytes(build_image(NO_FOOTER))
    (ovmf / "tiny").write_bytes(b"OVMF")
    with pytest.raises(family, match=text):
        sev("vmsa", *words)
    assert not (ovmf / "p").exists()


def test_a_vmm_nobody_knows_is_a_usage_error(ovmf: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        sev("vmsa", "build", "page", "--cpu", "0", "--userspace", "xen")
    assert caught.value.code == UsageError.exit_status

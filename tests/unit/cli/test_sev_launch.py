# SPDX-License-Identifier: Apache-2.0
"""``sealpod sev session``, ``measurement build``, ``secret build``: an owner's side of a launch by hand."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ovmfkit import FULL, build_image
from sevkit import Hierarchy, new_hierarchy

from sealpod.cli.main import dispatch
from sealpod.errors import (
    ConflictError,
    DecodeError,
    NotFoundError,
    OperationError,
    SealpodError,
    UsageError,
    VerificationError,
)
from sealpod.secret import SecretBytes
from sealpod.sev.cert import Certificate
from sealpod.sev.kdf import hmac_sha256
from sealpod.sev.packet import unpack
from sealpod.sev.policy import Policy
from sealpod.sev.session import TransportKeys, open_session
from sealpod.wire import secrettable

# sevctl's tests `measurement build` and `secret build` (LEDGER, "sevctl's files").
TIK = bytes.fromhex("3569cf61a32a602b87185ac6e0f55913")
NONCE = "wxP6tRHCFrFQWxsuqZA8QA=="
DIGEST = "xkvRAfyaSizgonxAjZIAkR8TmolUabBKQKb6KJCDDSM="
MEASUREMENT = "lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA"
SECRET_TIK = bytes.fromhex("c6d5a9956133050912b24bbe5c372686")
SECRET_TEK = bytes.fromhex("52a869b79ab9c13bb6a92b0561619cb3")
SECRET_IV = "rFR07U3TLH2YnsUj2SVZ7A=="
BLOB = "TLeA7607lZQntLjRY1/i+sbtdSZ+75zxpz4Px9hzpBLwItF5Q2o4prA++3ZZv9ZS"
LUKS, OTHER = "736869e5-84f0-4973-92ec-06879ce3da0b", "736869e5-aaaa-4973-92ec-06879ce3da0b"


@pytest.fixture(scope="module")
def hierarchy() -> Hierarchy:
    return new_hierarchy(2048)


@pytest.fixture
def here(tmp_path: Path, hierarchy: Hierarchy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a chain, transport keys and secrets."""
    monkeypatch.chdir(tmp_path)
    for name, data in {
        "chain": hierarchy.chain.encode(),
        "short": hierarchy.chain.platform.encode(),
        "pdh": hierarchy.chain.pdh.encode(),
        "ca": hierarchy.chain.authority.encode(),
        "tik": TIK,
        "secret-tik": SECRET_TIK,
        "secret-tek": SECRET_TEK,
        "luks": b"MY-LUKS-PASSPHRASE",
        "other": b"SOME OTHER SECRET",
    }.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def sev(*words: str) -> int:
    return dispatch(["sev", *words])


def files_of(directory: Path) -> set[str]:
    return set(os.listdir(directory)) - {
        "chain", "short", "pdh", "ca", "tik", "secret-tik", "secret-tek", "luks", "other",
    }  # fmt: skip


# --- session -------------------------------------------------------------------------------------------

SESSION_FILES = {"vm_tik.bin", "vm_tek.bin", "vm_godh.b64", "vm_session.b64"}


def keys_of(directory: Path, name: str = "vm") -> TransportKeys:
    tek, tik = ((directory / f"{name}_{key}.bin").read_bytes() for key in ("tek", "tik"))
    return TransportKeys(tek=SecretBytes(tek), tik=SecretBytes(tik))


def as_firmware(directory: Path, hierarchy: Hierarchy, policy: int) -> TransportKeys:
    """What the platform's firmware makes of the two public files."""
    godh, blob = (
        base64.b64decode((directory / f"vm_{name}.b64").read_bytes()) for name in ("godh", "session")
    )
    return open_session(hierarchy.ec_keys["pdh"], Certificate.decode(godh), blob, Policy(policy))


@pytest.mark.parametrize("file", ["pdh", "short", "chain"])
@pytest.mark.parametrize("policy", ["3", "0x18000003", "402653187"])
def test_a_session_opens_on_its_platform(
    here: Path, hierarchy: Hierarchy, file: str, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sev("session", file, policy) == 0
    assert files_of(here) == SESSION_FILES
    keys = as_firmware(here, hierarchy, int(policy, 0))
    assert keys.tik == keys_of(here).tik
    assert keys.tek == keys_of(here).tek
    out, err = capsys.readouterr()
    assert "vm_session.b64" in out
    assert "not verified" in err


def test_the_files_are_sevctls(here: Path) -> None:
    sev("session", "-n", "guest", "pdh", "3")
    godh, session = (here / "guest_godh.b64").read_bytes(), (here / "guest_session.b64").read_bytes()
    head = bytes.fromhex("01000000 0000 0000 03100000 03000000 02000000")
    assert base64.b64decode(godh, validate=True)[:20] == head
    assert len(base64.b64decode(godh)) == 2084
    assert len(base64.b64decode(session, validate=True)) == 128
    modes = {name: stat.S_IMODE((here / name).stat().st_mode) for name in files_of(here)}
    assert modes == {
        "guest_tik.bin": 0o600,
        "guest_tek.bin": 0o600,
        "guest_godh.b64": 0o644,
        "guest_session.b64": 0o644,
    }


def test_upstream_bug_policy_word_nibbles_is_not_copied(here: Path) -> None:
    """sevctl drops the minimum firmware version from the MACed policy, and firmware refuses the session."""
    sev("session", "pdh", "0x18000003")
    blob = base64.b64decode((here / "vm_session.b64").read_bytes())
    tik = keys_of(here).tik.reveal()
    assert blob[96:] == hmac_sha256(tik, (0x18000003).to_bytes(4, "little"))
    assert blob[96:] != hmac_sha256(tik, (3).to_bytes(4, "little"))


def test_keys_are_not_replaced_unless_forced(here: Path, hierarchy: Hierarchy) -> None:
    sev("session", "pdh", "3")
    before = {name: (here / name).read_bytes() for name in SESSION_FILES}
    with pytest.raises(ConflictError) as caught:
        sev("session", "pdh", "1")
    assert caught.value.code == "output.exists"
    assert {name: (here / name).read_bytes() for name in SESSION_FILES} == before
    assert sev("session", "--force", "pdh", "1") == 0
    assert as_firmware(here, hierarchy, 1).tik == keys_of(here).tik


@pytest.mark.parametrize("blocked", sorted(SESSION_FILES))
def test_all_four_files_or_none(here: Path, blocked: str) -> None:
    (here / blocked).mkdir()
    with pytest.raises(SealpodError):
        sev("session", "--force", "pdh", "3")
    assert files_of(here) == {blocked}


@pytest.mark.parametrize("words", [("--ca", "ca"), ("--ca", "chain"), ("--verify", "--ca", "ca")])
def test_a_chain_is_verified_on_demand(
    here: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sev("session", *words, "short", "3", "-o", "json") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["schemaVersion"] == 1
    assert (report["policy"], report["verified"]) == (3, True)
    assert set(report["files"].values()) == SESSION_FILES
    assert "not verified" not in err


def test_a_chain_that_does_not_verify_gets_no_session(here: Path, hierarchy: Hierarchy) -> None:
    with pytest.raises(VerificationError) as caught:
        sev("session", "--verify", "chain", "3")
    assert caught.value.code == "chain.untrusted-root"
    (here / "ca").write_bytes(new_hierarchy(2048).chain.authority.encode())
    with pytest.raises(VerificationError) as caught:
        sev("session", "--ca", "ca", "chain", "3")
    assert caught.value.code == "chain.cek"
    with pytest.raises(DecodeError):
        sev("session", "--ca", "chain", "pdh", "3")
    assert files_of(here) == set()


@pytest.mark.parametrize(
    ("pdh", "policy", "family", "text"),
    [
        ("missing", "3", NotFoundError, "PDH file missing"),
        ("luks", "3", DecodeError, "could not start session based off of provided certificate chain"),
        ("ca", "3", DecodeError, "could not start session based off of provided certificate chain"),
        ("pdh", "three", UsageError, "not a policy"),
        ("pdh", "-1", UsageError, "not a policy"),
        ("pdh", "4294967296", UsageError, "32 bits"),
        ("pdh", "0x40", UsageError, "reserved bits"),
    ],
)
def test_bad_arguments_leave_nothing(
    here: Path, pdh: str, policy: str, family: type[SealpodError], text: str
) -> None:
    with pytest.raises(family, match=text):
        sev("session", "--", pdh, policy)
    assert files_of(here) == set()


# --- measurement build ---------------------------------------------------------------------------------


def measure(*words: str, policy: str = "0x03", api: tuple[str, str, str] = ("0x01", "40", "40")) -> int:
    major, minor, build = api
    version = ("--api-major", major, "--api-minor", minor, "--build-id", build)
    return sev("measurement", "build", *version, "--policy", policy, "--tik", "tik", *words)


Out = Callable[[], str]


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> Out:
    return lambda: capsys.readouterr().out.strip()


# Launch digests of sevctl's test files: trimmed OVMF; with fake kernel, initrd and line; with four vCPUs.
@pytest.mark.parametrize(
    ("digest", "policy", "api", "nonce", "measurement"),
    [
        (base64.b64decode(DIGEST).hex(), "0x03", ("0x01", "40", "40"), NONCE, MEASUREMENT),
        ("2f6fc6065f4abc131eb4fb2b5090a542636eae84a94c0db0fdd5f405cb372ff5", "3", ("1", "0x28", "40"), NONCE,
         "oMDewIouJSpbpNRHj7Mk3p08H2dPZQdsZMU14qIymBnDE/q1EcIWsVBbGy6pkDxA"),
        ("4b47fec6f851487c33714c8a00a832a1b705ad0a7cac4a647388eccfa9f0c570", "3", ("1", "40", "40"), NONCE,
         "h3auYbWQnVW7EGLWN4Hf9SN0oEYMPU2sK4bLnefWPwvDE/q1EcIWsVBbGy6pkDxA"),
        ("847b5ab6db136ea67dc5a95478ebe7e5ebbe93e9e74bdb1284165f9007a4e367", "0x05", ("1", "49", "6"),
         "Lb6Vn10xZNtSjGSAAIUJ8g==", "/o0nzDKE5XgtVnUZWPhUea/WZYrTKLExR7KCwuMdbActvpWfXTFk21KMZIAAhQny"),
    ],
)  # fmt: skip
def test_measurements_of_sevctl(
    here: Path, out: Out, digest: str, policy: str, api: tuple[str, str, str], nonce: str, measurement: str
) -> None:
    encoded = base64.b64encode(bytes.fromhex(digest)).decode()
    assert measure("--nonce", nonce, "--launch-digest", encoded, policy=policy, api=api) == 0
    assert out() == measurement
    blob = ("--launch-measure-blob", measurement, "--launch-digest", encoded)
    assert measure(*blob, "--outfile", "result", policy=policy, api=api) == 0
    assert out() == "Wrote outfile: result"
    assert (here / "result").read_bytes() == base64.b64decode(measurement)
    # Key and blob by base64 and by path.
    assert measure("--launch-measure-blob", "result", "--launch-digest", encoded, policy=policy, api=api) == 0
    assert out() == measurement


def test_a_key_as_base64_is_taken_with_a_warning(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoded = base64.b64encode(TIK).decode()
    assert measure("--nonce", NONCE, "--launch-digest", DIGEST, "--tik", encoded) == 0
    out, err = capsys.readouterr()
    assert out.strip() == MEASUREMENT
    assert "--tik is on the command line" in err
    assert encoded not in err


def test_a_mistyped_file_name_is_not_warned_of_as_a_key(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="failed to base64 decode --tik"):
        measure("--nonce", NONCE, "--launch-digest", DIGEST, "--tik", "vm_tik.bim")
    assert capsys.readouterr().err == ""


def test_both_keys_may_be_in_one_file_as_sev_tool_has_them(here: Path, out: Out) -> None:
    """Its tmp_tk.bin: TEK, then TIK."""
    (here / "tmp_tk.bin").write_bytes(SECRET_TEK + TIK)
    assert measure("--nonce", NONCE, "--launch-digest", DIGEST, "--tik", "tmp_tk.bin") == 0
    assert out() == MEASUREMENT
    (here / "tmp_tk.bin").write_bytes(SECRET_TEK + SECRET_TIK)
    keys = ("--tik", "tmp_tk.bin", "--tek", "tmp_tk.bin")
    blob = ("--launch-measure-blob", BLOB, "--iv", SECRET_IV, "--secret", f"{LUKS}:luks")
    assert sev("secret", "build", *keys, *blob, "one", "payload") == 0
    assert secret("--iv", SECRET_IV, "--secret", f"{LUKS}:luks") == 0
    assert (here / "one").read_bytes() == (here / "header").read_bytes()


def measurement_of(policy: int, digest: bytes) -> str:
    head = bytes((4, 1, 40, 40)) + policy.to_bytes(4, "little")
    nonce = base64.b64decode(NONCE)
    return base64.b64encode(hmac_sha256(TIK, head + digest + nonce) + nonce).decode()


@pytest.fixture
def guest(here: Path) -> dict[str, bytes]:
    parts = {
        "ovmf": build_image(FULL),
        "kernel": b"kernel" * 1000,
        "initrd": b"initrd" * 1000,
        "cpu0": bytes(range(256)) * 16,
        "cpu1": bytes(reversed(range(256))) * 16,
    }
    for name, data in parts.items():
        (here / name).write_bytes(data)
    return parts


def hashes_table(guest: dict[str, bytes], line: str) -> bytes:
    from sealpod.measure.hashes import HashesTable

    return HashesTable.of(guest["kernel"], guest["initrd"], line).encode()


KERNEL = ("--kernel", "kernel", "--initrd", "initrd", "--cmdline", "console=ttyS0")
VMSA = ("--vmsa-cpu0", "cpu0", "--vmsa-cpu1", "cpu1")
KNOWN = ("--nonce", NONCE, "--launch-digest", DIGEST)
FILES = ("--nonce", NONCE, "--firmware", "ovmf")
ES = (*FILES, "--policy", "5")


def test_measurements_of_files(guest: dict[str, bytes], out: Out) -> None:
    table = hashes_table(guest, "console=ttyS0")
    start = ("--nonce", NONCE, "--firmware", "ovmf")
    for words, policy, measured in (
        ((), 3, guest["ovmf"]),
        (KERNEL, 3, guest["ovmf"] + table),
        (("--num-cpus", "3", *VMSA), 5, guest["ovmf"] + guest["cpu0"] + 2 * guest["cpu1"]),
        (("--num-cpus", "0x1", *VMSA, *KERNEL), 5, guest["ovmf"] + table + guest["cpu0"]),
    ):
        assert measure(*start, *words, policy=str(policy)) == 0
        assert out() == measurement_of(policy, hashlib.sha256(measured).digest())


def test_vcpus_count_only_with_the_policys_bit(
    guest: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    measure("--nonce", NONCE, "--firmware", "ovmf", "--num-cpus", "3", *VMSA)
    out, err = capsys.readouterr()
    assert out.strip() == measurement_of(3, hashlib.sha256(guest["ovmf"]).digest())
    assert "no vCPU is measured" in err


def test_measurement_as_json(here: Path, out: Out) -> None:
    measure("--nonce", NONCE, "--launch-digest", DIGEST, "-o", "json")
    report = json.loads(out())
    assert report == {
        "schemaVersion": 1,
        "measurement": MEASUREMENT,
        "measure": base64.b64decode(MEASUREMENT)[:32].hex(),
        "nonce": base64.b64decode(NONCE).hex(),
        "launchDigest": base64.b64decode(DIGEST).hex(),
        "outfile": None,
    }


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--firmware", "ovmf"), "One of --nonce or --launch-measure-blob must be specified."),
        (("--nonce", NONCE), "One of --firmware or --launch-digest must be specified."),
        ((*FILES, *KERNEL[:2]),
         "--kernel, --initrd, --cmdline must be specified together"),
        ((*FILES, *KERNEL[2:4]),
         "--kernel, --initrd, --cmdline must be specified together"),
        (ES,
         "SEV-ES policy bit is set, CPU/VMSA info must be specified"),
        ((*ES, "--num-cpus", "2", *VMSA[:2]),
         "--num-cpus, --vmsa-cpu0, --vmsa-cpu1 must be specified together"),
        ((*ES, "--num-cpus", "0", *VMSA), "--num-cpus is 1"),
        ((*ES, "--num-cpus", "2", "--vmsa-cpu0", "cpu0", "--vmsa-cpu1", "kernel"),
         "Expected VMSA length 4096, was 6000"),
        ((*KNOWN, "--policy", "3x"), "--policy=3x value must be int or hex"),
        ((*KNOWN, "--policy", "0x"), "--policy=0x value must be int or hex"),
        ((*KNOWN, "--policy", "4294967296"), "value must be int or hex"),
        ((*KNOWN, "--build-id", "256"), "not one byte"),
        (("--nonce", NONCE, "--launch-digest", "!"), "failed to base64 decode --launch-digest"),
        (("--nonce", NONCE, "--launch-digest", NONCE), "32 bytes"),
        (("--nonce", "!", "--launch-digest", DIGEST), "failed to base64 decode --nonce"),
        (("--nonce", DIGEST, "--launch-digest", DIGEST), "--nonce has 32 bytes"),
        (("--launch-measure-blob", NONCE, "--launch-digest", DIGEST), "48 bytes"),
        ((*KNOWN, "--tik", "kernel"), "--tik has 6000 bytes"),
        (("--nonce", NONCE, "--firmware", "missing"), "no such file"),
    ],
)  # fmt: skip
def test_measurement_arguments_are_checked(
    guest: dict[str, bytes], words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SealpodError) as caught:
        measure(*words)
    assert text in caught.value.message
    assert capsys.readouterr().out == ""


# --- secret build --------------------------------------------------------------------------------------


def secret(*words: str) -> int:
    keys = ("--tik", "secret-tik", "--tek", "secret-tek")
    return sev("secret", "build", *keys, "--launch-measure-blob", BLOB, *words, "header", "payload")


@pytest.mark.parametrize(
    ("secrets", "header", "payload"),
    [
        ([f"{LUKS}:luks"], "AAAAAKxUdO1N0yx9mJ7FI9klWey8FSzeYQ4X8K71VzNKLU/KQsIsQxLjtbhaPUewqshX5Q==",
         "0U3e5PcXv0UW+H4tSBFKOdCYfKE1+j38Bc2fuO16mYiyI+sWx7INfn+lgYj56GL12yyinDa+lVfCCwD/2w5cPA=="),
        ([f"{LUKS}:luks", f"{OTHER}:other"],
         "AAAAAKxUdO1N0yx9mJ7FI9klWeyZ3r0dOEKHUOhIRqzGYYvTJgdMtBPL1nK6GD9aGET7Ng==",
         ("0U3e5PcXv0UW+H4tSBFKObWYfKE1+j38Bc2fuO16mYiyI+sWx7INfn+lgYj56GL12yyinDa+lVfCC+WWs332lpLNUX1ZI3YK7vYg"
          "tys4X+uGxEIlkIQ90v8/w8ZFmQMe")),
    ],
)  # fmt: skip
def test_packets_of_sevctl(here: Path, out: Out, secrets: list[str], header: str, payload: str) -> None:
    options = [word for one in secrets for word in ("--secret", one)]
    assert secret("--iv", SECRET_IV, *options) == 0
    assert out() == "Wrote header to: header\nWrote payload to: payload"
    assert base64.b64encode((here / "header").read_bytes()).decode() == header
    assert base64.b64encode((here / "payload").read_bytes()).decode() == payload


def test_every_packet_has_an_iv_of_its_own(here: Path) -> None:
    found = set()
    for _ in range(3):
        assert secret("--secret", f"{LUKS}:luks") == 0
        header, payload = (here / "header").read_bytes(), (here / "payload").read_bytes()
        found.add(header[4:20])
        keys = TransportKeys(tek=SecretBytes(SECRET_TEK), tik=SecretBytes(SECRET_TIK))
        table = unpack(keys, header, payload, base64.b64decode(BLOB)[:32]).reveal()
        assert {str(guid): data for guid, data in secrettable.decode(table).items()} == {
            LUKS: b"MY-LUKS-PASSPHRASE"
        }
    assert len(found) == 3


@pytest.mark.parametrize("size", [16343, 16344])
def test_the_largest_secret(here: Path, size: int) -> None:
    (here / "large").write_bytes(b"x" * size)
    assert secret("--secret", f"{LUKS}:large") == 0
    assert len((here / "payload").read_bytes()) == 16384


def test_secrets_that_do_not_fit_are_refused(here: Path) -> None:
    (here / "large").write_bytes(b"x" * 16345)
    (here / "huge").write_bytes(b"x" * 16385)
    for words, family in (
        (("--secret", f"{LUKS}:large"), UsageError),
        (("--secret", f"{LUKS}:huge"), OperationError),
        (("--secret", f"{LUKS}:luks", "--secret", f"{LUKS}:other"), UsageError),
    ):
        with pytest.raises(family):
            secret(*words)
    assert files_of(here) == {"large", "huge"}


def test_secret_as_json(here: Path, out: Out) -> None:
    secret("--secret", f"{LUKS}:luks", "-o", "json")
    report = json.loads(out())
    assert report == {
        "schemaVersion": 1, "header": "header", "payload": "payload", "bytes": 64, "secrets": [LUKS],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--secret", "luks"), "Unexpected --secret format"),
        (("--secret", "x:luks"), "failed to parse string as UUID: x"),
        (("--secret", f"{LUKS}:missing"), "secret path missing"),
        (("--iv", "!"), "failed to base64 decode --iv"),
        (("--iv", "AAAA"), "IV of 16"),
        (("--tek", "luks"), "--tek has 18 bytes"),
        (("--launch-measure-blob", "luks"), "48 bytes"),
    ],
)
def test_secret_arguments_are_checked(here: Path, words: tuple[str, ...], text: str) -> None:
    with pytest.raises(SealpodError) as caught:
        secret(*words)
    assert text in caught.value.message
    assert files_of(here) == set()


def test_no_error_quotes_a_key(here: Path) -> None:
    for option in ("--tik", "--tek"):
        with pytest.raises(SealpodError) as caught:
            secret(option, "c2VjcmV0LXNlY3JldA==!")
        assert "c2VjcmV0" not in caught.value.one_line()


def test_an_owner_and_a_firmware_agree(here: Path, hierarchy: Hierarchy, out: Out) -> None:
    """Session, measurement and packet by command, against the firmware's side of the library."""
    sev("session", "--ca", "ca", "chain", "3")
    keys = as_firmware(here, hierarchy, 3)
    nonce, digest = b"n" * 16, b"d" * 32
    measured = hmac_sha256(keys.tik.reveal(), bytes((4, 0, 24, 15, 3, 0, 0, 0)) + digest + nonce)
    (here / "answer").write_bytes(measured + nonce)
    out()
    version = ("--api-major", "0", "--api-minor", "24", "--build-id", "15", "--policy", "3")
    parts: tuple[Any, ...] = ("--launch-digest", base64.b64encode(digest).decode())
    sev("measurement", "build", *version, "--tik", "vm_tik.bin", "--launch-measure-blob", "answer", *parts)
    assert base64.b64decode(out()) == measured + nonce
    sev("secret", "build", "--tik", "vm_tik.bin", "--tek", "vm_tek.bin", "--launch-measure-blob", "answer",
        "--secret", f"{LUKS}:luks", "h", "p")  # fmt: skip
    table = unpack(keys, (here / "h").read_bytes(), (here / "p").read_bytes(), measured).reveal()
    assert list(secrettable.decode(table).values()) == [b"MY-LUKS-PASSPHRASE"]

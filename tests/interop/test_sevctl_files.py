# SPDX-License-Identifier: Apache-2.0
"""sevctl's own files, byte for byte: pages of vCPUs, and AMD's chain of a Naples platform.

The files are read from beside the repository (LEDGER, "sevctl's files") and the tests skip without them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ovmfkit import FULL, OLD_STYLE, build_image

from sealpod.cli.main import dispatch
from sealpod.errors import VerificationError
from sealpod.measure.vmsa import BSP_EIP, Vmm, vmsa_page
from sealpod.sev.vmsapage import Sku, build

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
RESET_ADDRESS = 0x0080B004
MILAN = ("--family", "25", "--model", "1", "--stepping", "1")


@pytest.fixture(params=[0, 1], ids=["vmsa0", "vmsa1"])
def page(request: pytest.FixtureRequest) -> tuple[int, bytes]:
    """A vCPU's number and sevctl's page of it."""
    path = DATA / "sevctl" / f"vmsa{request.param}.bin"
    if not path.is_file():
        pytest.skip("sevctl's pages are not there (../shared/data/sevctl)")
    return request.param, path.read_bytes()


@pytest.fixture
def naples() -> dict[str, bytes]:
    directory = DATA / "amd" / "naples"
    if not directory.is_dir():
        pytest.skip("AMD's certificates are not there (../shared/data/amd)")
    names = ("pdh", "pek", "oca", "cek", "ask", "ark")
    return {name: (directory / f"{name}.cert").read_bytes() for name in names}


def sev(*words: str) -> int:
    return dispatch(["sev", *words])


def test_pages_are_built_as_sevctl_builds_them(
    page: tuple[int, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cpu, expected = page
    Path("ovmf").write_bytes(build_image(FULL))
    words = ("--cpu", str(cpu), "--userspace", "qemu", *MILAN, "--firmware", "ovmf")
    sev("vmsa", "build", "page", *words)
    assert Path("page").read_bytes() == expected
    sev("vmsa", "update", "page", *words)
    assert Path("page").read_bytes() == expected


def test_a_page_is_shown_and_made_again(page: tuple[int, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    from sealpod.sev.vmsafields import from_json

    sev("vmsa", "show", str(DATA / "sevctl" / f"vmsa{page[0]}.bin"))
    shown = capsys.readouterr().out
    assert from_json(shown) == page[1]
    assert json.loads(shown)["rdx"] == 10489617


def test_the_launch_digest_measures_the_same_pages(page: tuple[int, bytes]) -> None:
    """`sealpod measure` and `sealpod sev vmsa` have one idea of QEMU's pages."""
    cpu, expected = page
    eip = RESET_ADDRESS if cpu else BSP_EIP
    assert vmsa_page(eip=eip, signature=0xA00F11, vmm=Vmm.QEMU) == expected


@pytest.mark.parametrize("cpu", [0, 1])
def test_kruns_pages_are_sevctls_here_and_sev_snp_measures_there(cpu: int) -> None:
    """The two tools disagree about krun, and each of our commands follows its own."""
    ours = build("krun", cpu, sku=Sku(25, 1, 1), reset_address=None)
    assert vmsa_page(eip=RESET_ADDRESS if cpu else BSP_EIP, signature=0xA00F11, vmm=Vmm.KRUN) != ours


def test_upstream_bug_three_byte_reset_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sevctl reads three bytes of an address of four: 0x12345678 would become 0x345678."""
    monkeypatch.chdir(tmp_path)
    image = build_image(OLD_STYLE)
    assert OLD_STYLE["reset_eip"] == 0x12345678
    Path("ovmf").write_bytes(image)
    sev("vmsa", "build", "page", "--cpu", "1", "--userspace", "qemu", *MILAN, "--firmware", "ovmf")
    made = Path("page").read_bytes()
    assert int.from_bytes(made[0x18:0x20], "little") == 0x12340000
    assert int.from_bytes(made[0x178:0x180], "little") == 0x5678


def test_a_real_naples_chain(
    naples: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """verify, session and split on what sevctl exports; the lines are those sevctl prints."""
    monkeypatch.chdir(tmp_path)
    short = b"".join(naples[name] for name in ("pdh", "pek", "oca", "cek"))
    Path("short").write_bytes(short)
    Path("full").write_bytes(short + naples["ask"] + naples["ark"])
    Path("ask_ark_naples.cert").write_bytes(naples["ask"] + naples["ark"])
    for words in (("full",), ("short", "--ca", "."), ("short", "--ca", "ask_ark_naples.cert")):
        assert sev("verify", "--sev", *words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "PDH EP384 D256 dbec0cf343b140dc7ded571935e8d0ec8059fd1610ddb3c79eb177e7cd3878a2"
        assert lines[1].startswith(" ⬑ PEK EP384 E256 8d55d63b")
        assert lines[5] == (
            "         •⬑ ARK R2048 R256 8efddcaaf84990cf6354d93637be270220cf15797332b3d918c3b8cc77349f31"
        )
    assert sev("session", "--verify", "full", "3") == 0
    assert "AMD" not in capsys.readouterr().err
    assert sev("cert", "split", "full") == 0
    assert {name: Path(f"{name}.cert").read_bytes() for name in naples} == naples
    changed = bytearray(Path("full").read_bytes())
    changed[4] ^= 1  # the API version the PDH was made with: signed
    Path("full").write_bytes(changed)
    with pytest.raises(VerificationError):
        sev("session", "--verify", "--force", "full", "3")

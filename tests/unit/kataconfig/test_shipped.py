# SPDX-License-Identifier: Apache-2.0
"""The configuration files of deploy/ say what they are shipped for, also after the usual edits with sed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tutorial
import yaml

from sealpod.cli import main as cli
from sealpod.kataconfig.document import parse
from sealpod.kataconfig.settings import Settings, settings_of
from sealpod.sandbox.podsettings import pod_settings
from sealpod.sandbox.spec import PodSpec

PLACE = tutorial.SHIPPED.parent
BROKER = "192.0.2.7:44444"
OWN_MEMORY = 256  # MiB of QEMU and the shim, besides the guest's (docs/runtime.md)


def settings(path: Path) -> Settings:
    return settings_of(parse(path.read_text(encoding="utf-8")))


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A copy of the confidential runtime's file, with files of a guest."""
    path = Path(shutil.copy(tutorial.SHIPPED, tmp_path))
    for name in ("kernel", "initrd", "firmware"):
        (tmp_path / name).write_bytes(b"x")
        tutorial.sed(path, f's|^{name} = ""|{name} = "{tmp_path}/{name}"|')
    return path


def launched(path: Path, **annotations: str) -> PodSpec:
    """What the runtime launches by this file."""
    named = {f"io.katacontainers.config.{name.replace('__', '.')}": one for name, one in annotations.items()}
    return pod_settings("kata-qemu-sev", str(path), named, user_network=False).spec()


def told(spec: PodSpec) -> list[str]:
    """The words of the measured command line that say what the guest does with its secret."""
    return [word for word in (spec.cmdline or "").split() if word.startswith("agent.aa_kbc_params=")]


@pytest.mark.parametrize("name", sorted(path.name for path in PLACE.glob("*.toml")))
def test_every_key_is_known_and_has_an_effect(name: str) -> None:
    assert settings(PLACE / name).findings() == ()


def test_the_overhead_of_a_runtime_class_holds_a_whole_machine() -> None:
    classes = sorted((PLACE.parent / "runtimeclasses").glob("*.yaml"))
    assert len(classes) == 3
    for path in classes:
        described = yaml.safe_load(path.read_text())
        sev = "-sev" if described["handler"].endswith("-sev") else ""
        memory = settings(PLACE / f"configuration-qemu{sev}.toml").memory
        wanted = f"{memory + OWN_MEMORY}Mi"
        assert described["overhead"]["podFixed"]["memory"] == wanted, path.name


def test_the_confidential_one_is_attested_online(shipped: Path) -> None:
    spec = launched(shipped)
    assert (spec.kbc, spec.kbs, spec.keyset, spec.policy.value) == (
        "online",
        "localhost:44444",
        "KEYSET-1",
        3,
    )
    assert told(spec) == ["agent.aa_kbc_params=online_sev_kbc::localhost:44444"]
    assert told(launched(shipped, pre_attestation__uri=BROKER)) == [
        f"agent.aa_kbc_params=online_sev_kbc::{BROKER}"
    ]


def test_the_plain_one_is_plain() -> None:
    assert settings(PLACE / "configuration-qemu.toml").confidential_guest is False


def test_the_edit_for_online(shipped: Path) -> None:
    """The host goes on to reach the broker as before; the guest is told where it does."""
    before = launched(shipped).cmdline or ""
    tutorial.online(shipped, BROKER)
    spec = launched(shipped)
    assert (spec.kbc, spec.kbs) == ("online", "localhost:44444")
    assert told(spec) == [f"agent.aa_kbc_params=online_sev_kbc::{BROKER}"]
    # That word is all that has changed on the measured line.
    assert [word for word in (spec.cmdline or "").split() if word not in told(spec)] == [
        word for word in before.split() if not word.startswith("agent.aa_kbc_params=")
    ]
    assert settings(shipped).findings() == ()


def test_the_edit_for_offline(shipped: Path) -> None:
    tutorial.offline(shipped)
    text = shipped.read_text()
    assert tutorial.BUNDLE in text
    assert tutorial.CONNECTION not in text
    spec = launched(shipped)
    assert (spec.kbc, spec.keyset) == ("offline", "KEYSET-1")
    assert told(spec) == ["agent.aa_kbc_params=offline_sev_kbc::null"]
    assert settings(shipped).findings() == ()


def test_katas_own_file_is_edited_alike(shipped: Path) -> None:
    """Its command line names the agent's file in the guest image, which then has the last word."""
    own = f"agent.config_file=/etc/agent-config.toml {tutorial.SIGNATURES}"
    tutorial.sed(shipped, f's|^kernel_params = .*|kernel_params = "{own}"|')
    assert told(launched(shipped)) == []
    edited = Path(shutil.copy(shipped, shipped.with_name("online.toml")))
    tutorial.online(edited, BROKER)
    assert told(launched(edited)) == [f"agent.aa_kbc_params=online_sev_kbc::{BROKER}"]
    tutorial.offline(shipped)
    assert (launched(shipped).kbc, told(launched(shipped))) == ("offline", [])


def test_half_an_edit_is_told_of(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tutorial.online(shipped, BROKER)
    tutorial.offline(shipped)
    assert cli.dispatch(["config", "check", str(shipped), "--strict"]) == 1
    assert "what is injected is for mode offline" in capsys.readouterr().err


def test_the_check_shows_what_an_edit_does(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tutorial.offline(shipped)
    assert cli.dispatch(["config", "check", str(shipped), "--strict"]) == 0
    out = capsys.readouterr().out
    assert "offline  (file hypervisor.qemu.guest_pre_attestation_secret_guid)" in out
    assert "agent.aa_kbc_params=offline_sev_kbc::null" in out

# SPDX-License-Identifier: Apache-2.0
"""From a pod's configuration, annotations and resources to what is launched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sealpod.errors import AccessError, DecodeError, RefusedError, SealpodError, UsageError
from sealpod.sandbox import configfile, podsettings
from sealpod.sandbox.brokertls import BrokerTls
from sealpod.sandbox.configfile import find_config, require_trusted
from sealpod.sandbox.podsettings import MEMORY, PERIOD, QUOTA, PodSettings, pod_settings

ONLINE = """
kernel_params = "agent.config_file=/etc/a.toml agent.aa_kbc_params=online_sev_kbc::192.0.2.7:44444"
guest_pre_attestation_secret_guid = "1ee27366-0c87-43a6-af48-28543eaf7cb0"
guest_pre_attestation_secret_type = "connection"
"""
OFFLINE = """
kernel_params = "agent.config_file=/etc/a.toml agent.aa_kbc_params=offline_sev_kbc::null"
guest_pre_attestation_secret_guid = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
guest_pre_attestation_secret_type = "bundle"
"""
ATTESTED = "confidential_guest = true\nguest_pre_attestation = true\n"


@pytest.fixture(autouse=True)
def processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


@pytest.fixture
def settle(tmp_path: Path):  # type: ignore[no-untyped-def]
    def made(
        text: str = "", runtime: str = "kata-qemu", user: bool = False, **annotations: str
    ) -> PodSettings:
        path = tmp_path / "c.toml"
        files = "".join(f'{name} = "{tmp_path}/{name}"\n' for name in ("firmware", "kernel", "initrd"))
        path.write_text(f"[hypervisor.qemu]\n{files}{text}", encoding="utf-8")
        named = {name.replace("__", "."): value for name, value in annotations.items()}
        return pod_settings(runtime, str(path), named, user_network=user)

    return made


def test_a_plain_pod_has_no_firmware_and_no_broker(settle) -> None:  # type: ignore[no-untyped-def]
    spec = settle().spec()
    assert (spec.measured, spec.kbc, spec.kbs) == (False, "none", "")
    assert "iomem" not in spec.cmdline
    assert "agent." not in spec.cmdline


def test_the_tutorials_two_ways_to_the_key(settle) -> None:  # type: ignore[no-untyped-def]
    online = settle(ATTESTED + ONLINE).spec()
    assert (online.kbc, online.kbs, online.keyset) == ("online", "localhost:44444", "KEYSET-1")
    offline = settle(ATTESTED + OFFLINE).spec()
    assert offline.kbc == "offline"
    for spec, kbc in ((online, "online_sev_kbc::192.0.2.7:44444"), (offline, "offline_sev_kbc::null")):
        words = spec.cmdline.split()
        assert words.count("iomem=relaxed") == 1
        # The configuration's words end the line, each once, and are all that is said to the agent.
        assert words[-2:] == ["agent.config_file=/etc/a.toml", f"agent.aa_kbc_params={kbc}"]
        assert sum(word.startswith("agent.") for word in words) == 2


def test_the_newer_spelling_announces_the_broker(settle) -> None:  # type: ignore[no-untyped-def]
    mode = 'guest_pre_attestation_kbs_mode = "online"\nguest_pre_attestation_kbs_uri = "192.0.2.7:1"\n'
    spec = settle(ATTESTED + mode).spec()
    assert spec.cmdline.endswith(" agent.aa_kbc_params=online_sev_kbc::192.0.2.7:1")


def test_tls_to_the_broker_is_the_environments(settle, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    mode = 'guest_pre_attestation_kbs_mode = "online"\nguest_pre_attestation_kbs_uri = "192.0.2.7:1"\n'
    assert settle(ATTESTED + mode).spec().kbs_tls is None
    for name, value in (("CA", "/ca"), ("CERT", "/cert"), ("KEY", "/key")):
        monkeypatch.setenv(f"SEALPOD_BROKER_{name}", value)
    found = settle(ATTESTED + mode)
    assert found.spec().kbs_tls == BrokerTls("/ca", "/cert", "/key")
    # The guest's client is plain: it needs a listener of its own.
    assert any("listener for guests" in text for text in found.warnings)
    assert not settle(ATTESTED + ONLINE).warnings
    assert settle().spec().kbs_tls is None
    monkeypatch.delenv("SEALPOD_BROKER_CA")
    with pytest.raises(UsageError, match="authorities"):
        settle(ATTESTED + ONLINE).spec()


def test_a_word_of_ours_is_not_said_twice(settle) -> None:  # type: ignore[no-untyped-def]
    words = settle('kernel_params = "panic=1 quiet"\n').cmdline.split()
    assert (words.count("panic=1"), words.count("quiet")) == (1, 1)


def test_a_quoted_word_is_refused(settle) -> None:  # type: ignore[no-untyped-def]
    """The guest's agent would find parameters of its own within the quotes."""
    with pytest.raises(DecodeError, match="double quote") as caught:
        settle("kernel_params = 'a=\"b agent.log=debug\"'\n")
    assert caught.value.code == "config.value"


@pytest.mark.parametrize(
    ("text", "quota", "expected"),
    [
        ("", "", 1),
        ("", "50000", 2),
        ("", "250000", 4),
        ("", "-1", 1),
        ("default_vcpus = -1\n", "50000", 8),
        ("default_vcpus = 2\ndefault_maxvcpus = 3\n", "900000", 3),
        ("", "90000000", 8),
    ],
)
def test_processors_follow_the_quota_up_to_the_hosts(settle, text: str, quota: str, expected: int) -> None:  # type: ignore[no-untyped-def]
    annotations = {QUOTA.replace(".", "__"): quota, PERIOD.replace(".", "__"): "100000"} if quota else {}
    settings = settle(text, **annotations)
    assert settings.cpus == expected
    assert f"nr_cpus={expected}" in settings.cmdline.split()


def test_memory_is_the_default_and_the_limit(settle) -> None:  # type: ignore[no-untyped-def]
    limit = {MEMORY.replace(".", "__"): str((256 << 20) + 1)}
    assert settle("default_memory = 512\n", **limit).memory == 512 + 257
    assert settle("default_memory = 512\n").memory == 512


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 120),
        ("[agent.kata]\ndial_timeout = 0\n", 120),
        ("[agent.kata]\ndial_timeout = 45\n", 45),
        ("[agent.kata]\ndial_timeout = 300\n", 300),
    ],
)
def test_the_agent_is_waited_for_as_long_as_the_file_says(settle, text: str, seconds: int) -> None:  # type: ignore[no-untyped-def]
    assert settle(text).spec().dial_seconds == seconds


def test_a_resource_that_is_no_number_is_refused(settle) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DecodeError):
        settle(**{MEMORY.replace(".", "__"): "1Gi"})


def test_the_confidential_runtime_does_not_start_a_plain_machine(settle) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RefusedError) as caught:
        settle(runtime="kata-qemu-sev")
    assert caught.value.code == "config.not-confidential"


def test_a_kernel_without_its_initrd_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[hypervisor.qemu]\nkernel = "/k"\n', encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        pod_settings("kata", str(path), {}, user_network=False)
    assert caught.value.code == "config.files"


def test_the_built_in_configuration_of_the_confidential_runtime_is_attested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(podsettings, "guest_files", lambda _kata: podsettings.GuestFiles("/f", "/k", "/i"))
    monkeypatch.setattr(configfile, "LOCATIONS", ())
    monkeypatch.delenv(configfile.ENVIRONMENT, raising=False)
    settings = pod_settings("kata-qemu-sev", "", {}, user_network=False)
    assert (settings.kata.mode, settings.kata.policy) == ("online", 3)
    # Inside the guest that address is the guest.
    assert any("the guest itself" in warning for warning in settings.warnings)
    assert pod_settings("kata", "", {}, user_network=False).kata.confidential_guest is False


def test_loopback_registries_are_renamed_on_the_user_network_only(settle) -> None:  # type: ignore[no-untyped-def]
    assert (
        settle(user=True)
        .image_reference("127.0.0.1:5000/a@sha256:" + "0" * 64)
        .startswith("10.0.2.2:5000/a@")
    )
    assert settle(user=True).image_reference("busybox") == "busybox"
    assert settle().image_reference("localhost:5000/a") == "localhost:5000/a"


def test_the_file_is_looked_up_in_katas_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = tmp_path / "last.toml"
    last.touch()
    monkeypatch.setattr(configfile, "LOCATIONS", (str(tmp_path / "absent"), str(last)))
    annotations, environ = {configfile.ANNOTATION: "/annotated"}, {configfile.ENVIRONMENT: "/environment"}
    assert find_config("/named", annotations, environ) == "/annotated"
    assert find_config("/named", {}, environ) == "/named"
    assert find_config("", {}, environ) == "/environment"
    assert find_config("", {}, {}) == str(last)
    monkeypatch.setattr(configfile, "LOCATIONS", ())
    assert find_config("", {}, {}) == ""


def test_a_pod_may_name_only_a_file_that_others_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.touch(mode=0o644)
    require_trusted(str(path))
    path.chmod(0o666)
    with pytest.raises(AccessError) as caught:
        require_trusted(str(path))
    assert caught.value.code == "config.untrusted"
    with pytest.raises(SealpodError):
        require_trusted(str(tmp_path))

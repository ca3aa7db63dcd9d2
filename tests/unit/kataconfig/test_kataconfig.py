# SPDX-License-Identifier: Apache-2.0
"""Kata's configuration: typed reading, both spellings, the usual edits, annotations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError, RefusedError
from sealpod.kataconfig.annotations import PREFIX, apply_annotations
from sealpod.kataconfig.document import MAX_TEXT, parse
from sealpod.kataconfig.keys import KEYS
from sealpod.kataconfig.reader import Origin
from sealpod.kataconfig.settings import Settings, settings_of

CONNECTION = "1ee27366-0c87-43a6-af48-28543eaf7cb0"
BUNDLE = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
OLD = f"""\
[hypervisor.qemu]
path = "/opt/bin/qemu"
kernel = "/opt/vmlinuz"
initrd = "/opt/initrd.img"
firmware = "/opt/OVMF.fd"
confidential_guest = true
guest_pre_attestation = true
guest_pre_attestation_proxy = "localhost:44444"
guest_pre_attestation_keyset = "KEYSET-1"
guest_pre_attestation_secret_guid = "{CONNECTION}"
guest_pre_attestation_secret_type = "connection"
sev_guest_policy = 0
sev_cert_chain = "/opt/sev/cert_chain.cert"
enable_annotations = ["enable_iommu"]
valid_hypervisor_paths = ["/opt/bin/qemu*"]
kernel_params = "agent.config_file=/etc/agent-config.toml agent.enable_signature_verification=false"
default_vcpus = 1
default_memory = 2048
[agent.kata]
kernel_modules = []
[runtime]
internetworking_model = "tcfilter"
[image]
service_offload = true
[factory]
"""
NEW = """\
[hypervisor.qemu]
confidential_guest = true
guest_pre_attestation = true
guest_pre_attestation_kbs_uri = "10.0.0.1:44444"
guest_pre_attestation_kbs_mode = "online"
sev_guest_policy = 3
"""


def settings(text: str) -> Settings:
    return settings_of(parse(text))


def annotated(text: str, **values: str) -> Settings:
    return apply_annotations(settings(text), {PREFIX + name: value for name, value in values.items()})


def hypervisor(lines: str) -> str:
    return f"[hypervisor.qemu]\n{lines}\n"


def enabled(name: str) -> str:
    return OLD.replace('["enable_iommu"]', f"[{name!r}]")


def test_the_shipped_form_gives_its_settings_without_a_warning() -> None:
    found = settings(OLD)
    assert (found.mode, found.kbs_uri, found.policy, found.guest_kbc) == ("online", "localhost:44444", 0, "")
    assert (found.firmware, found.kernel, found.initrd) == ("/opt/OVMF.fd", "/opt/vmlinuz", "/opt/initrd.img")
    assert found.findings() == ()
    assert found.origins["secret"] == Origin("file", "hypervisor.qemu.guest_pre_attestation_secret_guid")
    assert found.origins["debug"] == Origin("default")


def test_the_newer_spelling_tells_the_guest_the_brokers_address() -> None:
    found = settings(NEW)
    assert found.mode == "online"
    assert found.kernel_words == ("agent.aa_kbc_params=online_sev_kbc::10.0.0.1:44444",)
    assert settings(NEW.replace('"online"', '"offline"')).mode == "offline"
    assert settings(NEW.replace('"online"', '"offline"')).kernel_words == ()


def test_the_online_edit_puts_the_brokers_address_on_the_measured_command_line() -> None:
    edited = OLD.replace(
        "agent.enable_signature_verification=false",
        "agent.enable_signature_verification=false agent.aa_kbc_params=online_sev_kbc::10.0.0.1:44444",
    )
    found = settings(edited)
    assert found.kernel_words == (
        *settings(OLD).kernel_words,
        "agent.aa_kbc_params=online_sev_kbc::10.0.0.1:44444",
    )
    assert (found.mode, found.guest_kbc) == ("online", "online_sev_kbc::10.0.0.1:44444")
    assert found.findings() == ()


def test_the_offline_edit_makes_the_launch_inject_a_bundle() -> None:
    found = settings(OLD.replace(CONNECTION, BUNDLE).replace("connection", "bundle"))
    assert found.mode == "offline"
    assert found.kernel_words == settings(OLD).kernel_words


@pytest.mark.parametrize(("old", "new"), [(CONNECTION, BUNDLE), ("connection", "bundle")])
def test_half_the_offline_edit_is_refused(old: str, new: str) -> None:
    with pytest.raises(DecodeError) as caught:
        settings(OLD.replace(old, new))
    assert caught.value.code == "config.conflict"


def test_a_guest_told_otherwise_than_what_is_injected_is_warned_of() -> None:
    found = annotated(
        enabled("kernel_params"), **{"hypervisor.kernel_params": "agent.aa_kbc_params=offline_sev_kbc::null"}
    )
    assert any("injected is for mode online" in one for one in found.findings())


@pytest.mark.parametrize("key", ["confidential_guest", "guest_pre_attestation"])
def test_without_it_nothing_is_injected(key: str) -> None:
    assert settings(OLD.replace(f"{key} = true", f"{key} = false")).mode == "none"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a = ", "config.syntax"),
        ("a = " + "[" * 9999, "config.syntax"),
        ("a = " + "9" * 9999, "config.syntax"),
        ("#" * (MAX_TEXT + 1), "config.size"),
        ("runtime = 1", "config.type"),
        (hypervisor('default_memory = "2048"'), "config.type"),
        (hypervisor("default_memory = true"), "config.type"),
        (hypervisor("default_memory = 1.5"), "config.type"),
        (hypervisor("default_memory = -1"), "config.type"),
        (hypervisor("sev_guest_policy = 4294967296"), "config.type"),
        (hypervisor("confidential_guest = 1"), "config.type"),
        (hypervisor("kernel = 1979-05-27"), "config.type"),
        (hypervisor("enable_annotations = [1]"), "config.type"),
        (hypervisor('kernel = "\\u0000"'), "config.value"),
        (hypervisor('enable_annotations = ["("]'), "config.value"),
        (hypervisor('guest_pre_attestation_proxy = "http://h:1"'), "config.value"),
        (hypervisor('guest_pre_attestation_proxy = "h:65536"'), "config.value"),
        (hypervisor('guest_pre_attestation_kbs_mode = "both"'), "config.value"),
        (hypervisor('guest_pre_attestation_secret_guid = "x"'), "config.value"),
        (hypervisor('guest_pre_attestation_secret_type = "x"'), "config.value"),
        (hypervisor('image = "/a"\ninitrd = "/b"'), "config.conflict"),
        ('[hypervisor.clh]\nkernel = "/k"', "config.hypervisor"),
        ("[hypervisor.qemu]\n[hypervisor.firecracker]", "config.hypervisor"),
        (OLD.replace("sev_guest", 'guest_pre_attestation_kbs_mode="offline"\nsev_guest'), "config.conflict"),
        (OLD.replace("sev_guest", 'guest_pre_attestation_kbs_uri="h:1"\nsev_guest'), "config.conflict"),
    ],
)
def test_what_cannot_be_is_refused(text: str, code: str) -> None:
    with pytest.raises(DecodeError) as caught:
        settings(text)
    assert caught.value.code == code


def test_a_wrong_type_is_named_with_key_and_expectation() -> None:
    with pytest.raises(
        DecodeError, match=r"\[hypervisor.qemu\] default_memory is a string, expected a number"
    ):
        settings(hypervisor('default_memory = "2048"'))


def test_both_spellings_that_agree_are_one() -> None:
    both = OLD.replace("sev_guest", 'guest_pre_attestation_kbs_mode = "online"\nsev_guest')
    assert settings(both).mode == "online"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (hypervisor("sev_gest_policy = 1"), "did you mean sev_guest_policy?"),
        ("[agent.kat]\n", "did you mean agent.kata?"),
        ("[netmon]\n", "'netmon'"),
        (hypervisor('machine_type = "pc"'), "[hypervisor.qemu] machine_type has no effect here"),
    ],
)
def test_unknown_and_idle_keys_are_warned_of(text: str, warning: str) -> None:
    (found,) = settings(text).findings()
    assert warning in found


def test_a_renamed_key_is_renamed_to_a_known_one() -> None:
    renamed = [key for key in KEYS.values() if key.renamed_to]
    assert len(renamed) == 3
    assert all(KEYS[key.table, key.renamed_to].since == "CC-0.5.0" for key in renamed)


def test_attestation_and_policy_annotations_always_count() -> None:
    found = annotated(NEW, **{"pre_attestation.uri": "kbs:1", "sev.policy": "7"})
    assert (found.kbs_uri, found.policy) == ("kbs:1", 7)
    assert found.kernel_words == ("agent.aa_kbc_params=online_sev_kbc::kbs:1",)
    assert found.origins["policy"] == Origin("annotation", PREFIX + "sev.policy")
    assert annotated(NEW, **{"pre_attestation.enabled": "false"}).mode == "none"


@pytest.mark.parametrize(
    ("table", "key", "field", "default"),
    [
        ("agent.kata", "dial_timeout", "dial_timeout", 120),
        ("runtime", "create_container_timeout", "create_timeout", 600),
    ],
)
def test_a_limit_that_is_given_is_obeyed(table: str, key: str, field: str, default: int) -> None:
    def limit(text: str) -> tuple[int, Origin]:
        found = settings(text)
        assert found.findings() == ()
        return getattr(found, field), found.origins[field]

    in_file = Origin("file", f"{table}.{key}")
    assert limit("") == (default, Origin("default"))
    assert limit(f"[{table}]\n{key} = 0") == (default, in_file)
    assert limit(f"[{table}]\n{key} = 7") == (7, in_file)
    with pytest.raises(DecodeError):
        settings(f"[{table}]\n{key} = -1")


def test_a_pod_may_say_how_long_its_containers_may_be_made() -> None:
    name = "runtime.create_container_timeout"
    found = annotated(OLD, **{name: "90"})
    assert found.create_timeout == 90
    assert found.origins["create_timeout"] == Origin("annotation", PREFIX + name)
    assert annotated(OLD, **{name: "0"}).create_timeout == 600


def test_a_pod_may_enter_its_limits_and_not_leave_them() -> None:
    name, only = "runtime.sandbox_cgroup_only", "[runtime]\nsandbox_cgroup_only = true"
    assert settings(OLD).sandbox_cgroup_only is False
    assert settings(only).findings() == ()
    found = annotated(OLD, **{name: "true"})
    assert found.sandbox_cgroup_only is True
    assert found.origins["sandbox_cgroup_only"] == Origin("annotation", PREFIX + name)
    assert annotated(OLD, **{name: "false"}).sandbox_cgroup_only is False
    assert annotated(only, **{name: "true"}).sandbox_cgroup_only is True
    with pytest.raises(RefusedError) as caught:
        annotated(only, **{name: "false"})
    assert caught.value.code == "config.annotation"


@pytest.mark.parametrize(
    ("base", "value", "field", "wanted"),
    [
        ("kernel", "/k", "kernel", "/k"),
        ("initrd", "/i", "initrd", "/i"),
        ("firmware", "/f", "firmware", "/f"),
        ("path", "/opt/bin/qemu-8", "path", "/opt/bin/qemu-8"),
        ("default_vcpus", "4", "vcpus", 4),
        ("default_memory", "512", "memory", 512),
    ],
)
def test_a_hypervisor_annotation_counts_where_it_is_enabled(
    base: str, value: str, field: str, wanted: object
) -> None:
    assert getattr(annotated(enabled(base), **{f"hypervisor.{base}": value}), field) == wanted
    with pytest.raises(RefusedError, match=rf"annotation {PREFIX}hypervisor.{base} is not enabled"):
        annotated(OLD, **{f"hypervisor.{base}": value})


def test_an_expression_stands_for_the_whole_base_name() -> None:
    with pytest.raises(RefusedError):
        annotated(enabled("kernel"), **{"hypervisor.kernel_params": "a"})
    assert annotated(enabled("kernel.*"), **{"hypervisor.kernel_params": "a"}).kernel_params[-1] == "a"


def test_annotations_without_effect_are_warned_of_and_others_are_not_ours() -> None:
    assert annotated(OLD, **{"agent.enable_tracing": "true"}).warnings
    assert apply_annotations(settings(OLD), {"example.org/a": "b"}) == settings(OLD)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pre_attestation.enabled", "yes"),
        ("pre_attestation.uri", "http://kbs"),
        ("sev.policy", "4294967296"),
        ("sev.policy", "-1"),
        ("sev.policy", "٣"),
        ("runtime.create_container_timeout", "-1"),
        ("runtime.sandbox_cgroup_only", "yes"),
        ("hypervisor.default_vcpus", "0"),
        ("hypervisor.default_memory", "255"),
        ("hypervisor.kernel", "relative"),
        ("hypervisor.kernel", "/a/../b"),
        ("hypervisor.kernel_hash", "00"),
        ("hypervisor.kernel_params", "é"),
    ],
)
def test_a_bad_annotation_is_refused(name: str, value: str) -> None:
    with pytest.raises(DecodeError) as caught:
        annotated(enabled(".*"), **{name: value})
    assert caught.value.code == "config.value"


def test_another_hypervisor_is_named_and_does_no_harm_beside_qemu() -> None:
    with pytest.raises(DecodeError, match=r"has \[hypervisor\.clh\] and nothing in \[hypervisor\.qemu\]"):
        settings("[hypervisor.clh]\nconfidential_guest = true")
    assert settings(OLD + "[hypervisor.clh]\n").kernel == settings(OLD).kernel


@pytest.mark.parametrize("path", ["/opt/bin/sh", "/opt/bin/qemu/sh"])
def test_a_hypervisor_the_administrator_did_not_list_is_refused(path: str) -> None:
    with pytest.raises(RefusedError, match="valid_hypervisor_paths"):
        annotated(enabled("path"), **{"hypervisor.path": path})


SCALARS = st.one_of(
    st.sampled_from(["true", "[]", "{}", "-1", "0", "1.5", "1979-05-27", '"online"', '["["]', '""', "'a:1'"]),
    st.integers().map(str),
)
LINES = st.builds(
    lambda key, value: f"{key} = {value}", st.sampled_from(sorted({n for _, n in KEYS})), SCALARS
)


@given(
    st.one_of(st.text(), st.lists(LINES, unique_by=lambda one: one.split()[0]).map("\n".join).map(hypervisor))
)
def test_any_text_gives_settings_or_a_decode_error(text: str) -> None:
    try:
        found = settings(text)
    except DecodeError:
        return
    assert found.vcpus == -1 or found.vcpus > 0
    assert found.mode in ("online", "offline", "none")
    assert isinstance(found.findings(), tuple)

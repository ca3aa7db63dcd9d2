# SPDX-License-Identifier: Apache-2.0
"""Kata's command line by release: the whole string of CC-0.3.0, then each word by the key that brings it."""

from __future__ import annotations

import pytest

from sealpod.errors import DecodeError, UsageError
from sealpod.kataconfig.annotations import apply_annotations
from sealpod.kataconfig.commandline import GuestKeys, Release, command_line, guest_keys
from sealpod.kataconfig.constants import CONSTANTS
from sealpod.kataconfig.document import parse
from sealpod.kataconfig.settings import Settings, settings_of
from sealpod.kataconfig.sizes import Sizes, sizes, with_vcpus

QEMU_SEV = """
[hypervisor.qemu]
confidential_guest = true
kernel_params = "agent.config_file=/etc/agent-config.toml agent.enable_signature_verification=false"
"""
WHOLE = (
    "tsc=reliable no_timer_check rcupdate.rcu_expedited=1 i8042.direct=1 i8042.dumbkbd=1 i8042.nopnp=1 "
    "i8042.noaux=1 noreplace-smp reboot=k cryptomgr.notests net.ifnames=0 pci=lastbus=0 console=hvc0 "
    "console=hvc1 quiet panic=1 nr_cpus=1 selinux=0 scsi_mod.scan=none "
    "agent.config_file=/etc/agent-config.toml agent.enable_signature_verification=false"
)
KATA = [release for release in Release if release is not Release.SEALPOD]


def read(text: str, annotations: dict[str, str] | None = None) -> tuple[Settings, GuestKeys]:
    document = parse(text)
    given = annotations or {}
    return apply_annotations(settings_of(document), given), guest_keys(document, given)


def line(text: str, annotations: dict[str, str] | None = None, release: Release = Release.CC_0_3_0) -> str:
    return command_line(*read(text, annotations), 1, release)


def test_the_whole_line_of_cc_0_3_0() -> None:
    assert line(QEMU_SEV) == WHOLE


def test_the_number_of_processors_is_on_it() -> None:
    assert command_line(*read(QEMU_SEV), 4, Release.CC_0_3_0) == WHOLE.replace("nr_cpus=1", "nr_cpus=4")


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("enable_iommu = true", " console=hvc0", " intel_iommu=on iommu=pt console=hvc0"),
        ("use_legacy_serial = true", "console=hvc0 console=hvc1", "console=ttyS0"),
        ("enable_debug = true", "quiet", "debug"),
        ("disable_guest_selinux = false", "selinux=0", "selinux=1"),
        ('block_device_driver = "virtio-blk"', " scsi_mod.scan=none", ""),
        ("[agent.kata]\nenable_debug = true", "scan=none", "scan=none agent.log=debug"),
        ("[agent.kata]\nenable_tracing = true", "scan=none", "scan=none agent.trace=true"),
        ("[agent.kata]\ncontainer_pipe_size = 9", "scan=none", "scan=none agent.container_pipe_size=9"),
        (
            "[agent.kata]\ndebug_console_enabled = true",
            "scan=none",
            "scan=none agent.debug_console agent.debug_console_vport=1026",
        ),
    ],
)
def test_a_key_changes_its_word_only(key: str, old: str, new: str) -> None:
    assert line(QEMU_SEV + key) == WHOLE.replace(old, new)


def test_an_image_brings_root_and_systemd() -> None:
    text = QEMU_SEV + 'image = "/opt/kata/image"\nenable_debug = true'
    words = line(text).removeprefix(" ".join(CONSTANTS) + " ")
    assert words.startswith(
        "root=/dev/vda1 rootflags=data=ordered,errors=remount-ro ro rootfstype=ext4 console=hvc0 "
        "console=hvc1 debug systemd.show_status=true systemd.log_level=debug panic=1 nr_cpus=1 selinux=0 "
        "systemd.unit=kata-containers.target systemd.mask=systemd-networkd.service "
        "systemd.mask=systemd-networkd.socket scsi_mod.scan=none "
    )
    assert "rootflags=ro rootfstype=erofs" in line(text + '\nrootfs_type = "erofs"')


def test_only_the_latest_release_has_the_data_hubs_time_out() -> None:
    text = QEMU_SEV + "[agent.kata]\ncdh_api_timeout = 7"
    found = {release: "agent.cdh_api_timeout=7" in line(text, release=release) for release in KATA}
    assert [release for release, there in found.items() if there] == [Release.KATA_3_19_1]


def test_annotations_reach_it_when_they_are_enabled() -> None:
    text = QEMU_SEV + 'enable_annotations = ["kernel_params", "enable_iommu"]'
    given = {
        "io.katacontainers.config.hypervisor.kernel_params": "a=1  b",
        "io.katacontainers.config.hypervisor.enable_iommu": "true",
        "io.katacontainers.config.agent.container_pipe_size": "12",
    }
    found = line(text, given)
    assert found.endswith(" agent.enable_signature_verification=false a=1 b")
    assert " intel_iommu=on iommu=pt " in found
    assert " agent.container_pipe_size=12 " in found


@pytest.mark.parametrize(
    ("given", "first", "later"),
    [
        ('a="b  c" d', 'a="b c" d', 'a="b  c" d'),
        (' "a=b c"  d= ', '"a=b c" d', '"a=b c" d'),
        (" a \tb\tc  d=e== ", "a b c d=e==", "a b\tc d=e=="),
        ('a "b  c', 'a "b c', 'a "b  c'),
    ],
)
def test_parameters_are_split_and_joined_as_each_release_does_it(given: str, first: str, later: str) -> None:
    text = f"[hypervisor.qemu]\nkernel_params = '{given}'\n"
    for release, expected in zip(KATA, (first, later, later), strict=True):
        assert line(text, release=release).endswith(f" scsi_mod.scan=none {expected}")


def test_the_annotations_parameters_are_split_at_every_space() -> None:
    text = "[hypervisor.qemu]\nenable_annotations = ['kernel_params']\nkernel_params = 'a=\"b  c\"'\n"
    given = {"io.katacontainers.config.hypervisor.kernel_params": 'd="e  f" g='}
    assert line(text, given, Release.KATA_3_19_1).endswith('=none a="b  c" d="e f" g')


def test_a_parameter_without_a_name_starts_no_guest_of_kata() -> None:
    text = "[hypervisor.qemu]\nkernel_params = 'a=\"b = c\"'\n"
    assert line(text, release=Release.KATA_3_19_1).endswith(' a="b = c"')
    with pytest.raises(DecodeError) as caught:
        line(text, release=Release.CC_0_3_0)
    assert caught.value.code == "config.value"


def test_an_annotation_that_is_no_number_is_refused() -> None:
    with pytest.raises(DecodeError):
        line(QEMU_SEV, {"io.katacontainers.config.agent.container_pipe_size": "-1"})


def test_a_host_in_fips_mode_adds_a_word() -> None:
    assert command_line(*read(QEMU_SEV), 1, Release.CC_0_3_0, fips=True) == WHOLE + " fips=1"


def test_this_projects_line_is_not_katas() -> None:
    with pytest.raises(UsageError):
        command_line(*read(QEMU_SEV), 1, Release.SEALPOD)


STATIC = "[runtime]\nstatic_sandbox_resource_mgmt = true"


@pytest.mark.parametrize(
    ("release", "text", "milli", "expected"),
    [
        (Release.CC_0_3_0, "default_vcpus = 2", 3000, Sizes(2, 2)),
        (Release.CC_0_3_0, "default_vcpus = 2\n" + STATIC, 3000, Sizes(5, 5)),
        (Release.KATA_3_3_0, "default_vcpus = 2", 3000, Sizes(2, 2)),
        (Release.KATA_3_3_0, "default_vcpus = 2\n" + STATIC, 2001, Sizes(5, 5)),
        (Release.KATA_3_19_1, STATIC, 1, Sizes(2, 2)),
        (Release.KATA_3_19_1, "default_maxvcpus = 8", 0, Sizes(1, 8)),
        (Release.SEALPOD, "", 1500, Sizes(3, 3)),
        (Release.SEALPOD, "default_maxvcpus = 2", 9000, Sizes(2, 2)),
    ],
)
def test_sizes(release: Release, text: str, milli: int, expected: Sizes) -> None:
    assert sizes(*read(QEMU_SEV + text), milli, release) == expected


@pytest.mark.parametrize(
    ("release", "text", "milli", "expected"),
    [
        (Release.SEALPOD, "default_vcpus = -1", 0, Sizes(4, 4)),
        (Release.SEALPOD, "default_vcpus = 3", 9000, Sizes(4, 4)),
        (Release.SEALPOD, "default_vcpus = -1\ndefault_maxvcpus = 2", 0, Sizes(2, 2)),
        (Release.SEALPOD, "", 1500, Sizes(3, 3)),
        (Release.CC_0_3_0, "default_vcpus = -2", 9000, Sizes(4, 4)),
        (Release.CC_0_3_0, "default_vcpus = 9", 9000, Sizes(4, 4)),
        (Release.KATA_3_3_0, "default_vcpus = 9\n" + STATIC, 2000, Sizes(6, 6)),
        (Release.KATA_3_19_1, "", 0, Sizes(1, 4)),
        (Release.KATA_3_19_1, "default_maxvcpus = 8", 0, Sizes(1, 4)),
        (Release.KATA_3_19_1, "default_maxvcpus = 2", 0, Sizes(1, 2)),
    ],
)
def test_sizes_on_a_node_of_four_processors(release: Release, text: str, milli: int, expected: Sizes) -> None:
    assert sizes(*read(QEMU_SEV + text), milli, release, 4) == expected


@pytest.mark.parametrize(
    ("release", "text"), [(Release.SEALPOD, "default_vcpus = -1"), (Release.KATA_3_19_1, "")]
)
def test_a_size_that_depends_on_the_host_is_refused(release: Release, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        sizes(*read(QEMU_SEV + text), 0, release)
    assert caught.value.code == "measure.host-dependent"


def test_given_processors_count_whatever_the_pod_says() -> None:
    assert with_vcpus(*read(QEMU_SEV), 3, Release.CC_0_3_0) == Sizes(3, 3)
    assert with_vcpus(*read(QEMU_SEV + "default_maxvcpus = 8"), 3, Release.KATA_3_19_1) == Sizes(3, 8)
    assert with_vcpus(*read(QEMU_SEV), 3, Release.KATA_3_19_1, 4) == Sizes(3, 4)

# SPDX-License-Identifier: Apache-2.0
"""Digests foretold from a configuration: each runtime and mode against the digest of the same parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from ovmfkit import FULL, build_image

from sealpod.errors import NotFoundError, RefusedError, UsageError
from sealpod.kataconfig.commandline import Release
from sealpod.kataconfig.document import parse
from sealpod.kataconfig.settings import settings_of
from sealpod.kataconfig.sizes import SEALPOD_CPUS
from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable
from sealpod.measure.launch import Launch, Vcpus, measure_sev, measure_seves, measure_snp
from sealpod.measure.vcpu import named
from sealpod.qemu.arguments import MAXIMUM_CPUS
from sealpod.sandbox import foretell as foretelling
from sealpod.sandbox import measuredfiles
from sealpod.sandbox.foretell import Foretold, Node, foretell
from sealpod.sandbox.podsettings import pod_line

OVMF, KERNEL, INITRD = build_image(FULL), b"kernel", b"initrd"
MILAN = named("EPYC-Milan")
CC_LINE = (
    "tsc=reliable no_timer_check rcupdate.rcu_expedited=1 i8042.direct=1 i8042.dumbkbd=1 i8042.nopnp=1 "
    "i8042.noaux=1 noreplace-smp reboot=k cryptomgr.notests net.ifnames=0 pci=lastbus=0 console=hvc0 "
    "console=hvc1 quiet panic=1 nr_cpus={} selinux=0 scsi_mod.scan=none a=1"
)


@pytest.fixture
def config(tmp_path: Path) -> str:
    for name, data in (("fw", OVMF), ("kernel", KERNEL), ("initrd", INITRD)):
        (tmp_path / name).write_bytes(data)
    return (
        f'[hypervisor.qemu]\nfirmware = "{tmp_path}/fw"\nkernel = "{tmp_path}/kernel"\n'
        f'initrd = "{tmp_path}/initrd"\nconfidential_guest = true\nkernel_params = "a=1"\n'
    )


def firmware() -> Firmware:
    return Firmware.of(OVMF)


def table(line: str) -> HashesTable:
    return HashesTable.of(KERNEL, INITRD, line)


def digests(found: Foretold) -> list[str]:
    return [one.digest for one in found.components]


def digest_of(launch: Launch) -> str:
    return launch.digests[0][1].hex()


def milan(count: int = 0) -> Vcpus:
    return Vcpus(counts=(count,) if count else (), signature=MILAN)


def test_our_own_runtime(config: str) -> None:
    found = foretell(Node(config), {})
    line = pod_line(settings_of(parse(config)), 1)
    assert digests(found) == [digest_of(measure_sev(firmware(), lambda: table(line)))]
    assert found.components[0].cmdline == line
    assert found.components[0].policy == 0


def test_the_limits_of_a_pod_count_with_our_runtime_and_not_with_katas_first(config: str) -> None:
    assert " nr_cpus=3 " in str(foretell(Node(config), {}, 1500).components[0].cmdline)
    assert " nr_cpus=1 " in str(foretell(Node(config, Release.CC_0_3_0), {}, 1500).components[0].cmdline)


def test_kata_cc_0_3_0(config: str) -> None:
    found = foretell(Node(config, Release.CC_0_3_0), {}, counts=(1, 4))
    expected = [digest_of(measure_sev(firmware(), lambda n=n: table(CC_LINE.format(n)))) for n in (1, 4)]
    assert digests(found) == expected
    assert found.counts == (1, 4)


def test_an_annotation_can_ask_for_sev_es(config: str) -> None:
    policy = {"io.katacontainers.config.sev.policy": "5"}
    found = foretell(Node(config, Release.CC_0_3_0), policy, counts=(2,), processors=lambda _: milan())
    expected = measure_seves(firmware(), lambda: table(CC_LINE.format(2)), milan(2))
    assert digests(found) == [digest_of(expected)]
    only = found.components[0]
    assert (found.mode, only.mode, only.vcpus, only.policy, only.signature) == ("seves", "seves", 2, 5, MILAN)


def test_sev_es_needs_to_know_the_processors(config: str) -> None:
    with pytest.raises(UsageError) as caught:
        foretell(Node(config), {"io.katacontainers.config.sev.policy": "5"})
    assert caught.value.code == "measure.vcpu"


@pytest.mark.parametrize("release", [Release.KATA_3_3_0, Release.KATA_3_19_1])
def test_later_katas_measure_the_firmware_alone_of_sev_guests(config: str, release: Release) -> None:
    found = foretell(Node(config + "default_maxvcpus = 2\n", release), {})
    assert digests(found) == [digest_of(measure_sev(firmware(), None))]
    assert (found.components[0].cmdline, found.components[0].policy) == (None, None)


def test_snp_of_3_19_1_measures_the_line(config: str) -> None:
    text = config + "sev_snp_guest = true\n[runtime]\nstatic_sandbox_resource_mgmt = true\n"
    found = foretell(Node(text, Release.KATA_3_19_1), {}, 2000, processors=lambda _: milan())
    expected = measure_snp(firmware(), lambda: table(CC_LINE.format(3)), milan(3))
    assert digests(found) == [digest_of(expected)]


def test_snp_of_3_3_0_does_not(config: str) -> None:
    found = foretell(
        Node(config + "sev_snp_guest = true", Release.KATA_3_3_0), {}, processors=lambda _: milan()
    )
    assert digests(found) == [digest_of(measure_snp(firmware(), None, milan(1)))]


def test_snp_is_nothing_our_runtime_launches(config: str) -> None:
    with pytest.raises(UsageError) as caught:
        foretell(Node(config + "sev_snp_guest = true"), {})
    assert caught.value.code == "measure.release"


@pytest.mark.parametrize(
    ("key", "said"), [("confidential_guest = false", "says"), ("", "does not say confidential_guest = true")]
)
def test_a_plain_configuration_has_no_digest(key: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"the configuration {said}") as caught:
        foretell(Node(f"[hypervisor.qemu]\n{key}\n"), {})
    assert caught.value.code == "measure.not-confidential"


def test_an_annotation_that_is_not_enabled_is_refused_as_the_runtime_would(config: str) -> None:
    with pytest.raises(RefusedError):
        foretell(Node(config), {"io.katacontainers.config.hypervisor.kernel_params": "x"})


def test_a_missing_file_is_named(config: str, tmp_path: Path) -> None:
    (tmp_path / "initrd").unlink()
    with pytest.raises(NotFoundError, match="initrd"):
        foretell(Node(config), {})


def test_many_sizes_read_and_hash_each_file_once(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = measuredfiles.open_file

    def counted(path: str, what: str, remedy: str) -> object:
        opened.append(what)
        return real(path, what, remedy)

    for module in (foretelling, measuredfiles):
        monkeypatch.setattr(module, "open_file", counted)
    found = foretell(Node(config), {}, counts=range(1, 9))
    assert len(set(digests(found))) == 8
    assert sorted(opened) == ["firmware", "initrd", "kernel"]


def test_our_runtimes_most_processors_are_qemus() -> None:
    assert SEALPOD_CPUS == MAXIMUM_CPUS

# SPDX-License-Identifier: Apache-2.0
"""The measured command line: predictable, and nothing can be smuggled into it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sealpod.errors import UsageError
from sealpod.sandbox.cmdline import MAXIMUM_LENGTH, GuestSettings, compose

# The order is part of the interface: a guest owner computes the digest from this string.
PLAIN = (
    "tsc=reliable no_timer_check rcupdate.rcu_expedited=1 i8042.direct=1 i8042.dumbkbd=1 i8042.nopnp=1 "
    "i8042.noaux=1 noreplace-smp reboot=k cryptomgr.notests net.ifnames=0 pci=lastbus=0 console=ttyS0 quiet "
    "panic=1 nr_cpus=1 selinux=0 scsi_mod.scan=none agent.enable_signature_verification=false"
)


def test_plain() -> None:
    assert compose(GuestSettings(cpus=1)) == PLAIN


def test_offline_names_its_kbc() -> None:
    line = compose(GuestSettings(cpus=1, kbc="offline"))
    assert line == PLAIN + " iomem=relaxed agent.aa_kbc_params=offline_sev_kbc::null"


def test_online_names_the_broker_and_registries() -> None:
    settings = GuestSettings(
        cpus=2,
        kbc="online",
        kbs="10.0.2.2:44444",
        insecure_registries=("10.0.2.2:5000", "r:80"),
        extra=("x=1",),
    )
    assert compose(settings) == PLAIN.replace("nr_cpus=1", "nr_cpus=2") + (
        " iomem=relaxed agent.aa_kbc_params=online_sev_kbc::10.0.2.2:44444"
        " agent.insecure_registries=10.0.2.2:5000,r:80 x=1"
    )


def test_debug_is_visible_to_the_owner() -> None:
    line = compose(GuestSettings(cpus=1, debug=True))
    assert " debug " in line
    assert "agent.log=debug" in line
    assert " quiet " not in line


def test_online_without_a_broker_is_refused() -> None:
    with pytest.raises(UsageError):
        compose(GuestSettings(cpus=1, kbc="online"))


@pytest.mark.parametrize("word", ["a b", "a\n", 'a"', "a\x00", "é"])
def test_words_cannot_smuggle_others(word: str) -> None:
    with pytest.raises(UsageError):
        compose(replace(GuestSettings(cpus=1), extra=(word,)))
    with pytest.raises(UsageError):
        compose(replace(GuestSettings(cpus=1), insecure_registries=(word,)))


def test_longer_than_the_kernel_reads_is_refused() -> None:
    with pytest.raises(UsageError, match=str(MAXIMUM_LENGTH)):
        compose(GuestSettings(cpus=1, extra=("x" * MAXIMUM_LENGTH,)))

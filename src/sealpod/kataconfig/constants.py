# SPDX-License-Identifier: Apache-2.0
"""The words every command line of Kata for amd64 begins with (virtcontainers, ``qemu_amd64.go``).

A module of its own, so that who composes another line from them imports nothing else.
"""

from __future__ import annotations

from typing import Final

CONSTANTS: Final = (
    "tsc=reliable",
    "no_timer_check",
    "rcupdate.rcu_expedited=1",
    "i8042.direct=1",
    "i8042.dumbkbd=1",
    "i8042.nopnp=1",
    "i8042.noaux=1",
    "noreplace-smp",
    "reboot=k",
    "cryptomgr.notests",
    "net.ifnames=0",
    "pci=lastbus=0",
)

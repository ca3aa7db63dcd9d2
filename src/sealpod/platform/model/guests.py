# SPDX-License-Identifier: Apache-2.0
"""The guests a firmware knows: their states, handles and address space ids (AMD SEV API, guest management).

Sending and receiving guests (migration) is not part of the model: only the states of a launch occur.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sealpod.sev.status import Status

if TYPE_CHECKING:
    from sealpod.sev.policy import Policy
    from sealpod.sev.session import TransportKeys

MAX_GUESTS: Final = 1024
"""Guest contexts the firmware has room for; handles are 1..MAX_GUESTS."""

MAX_ASID: Final = 509
"""Highest address space id: what CPUID 0x8000001F ECX says on second and third generation EPYC."""
MIN_SEV_ASID: Final = 100
"""Lowest id of a guest without SEV-ES; those below are for guests with it. A setting of a real machine's
BIOS, which CPUID 0x8000001F EDX reports. The kernel keeps to it, the firmware does not look."""


class GuestState(enum.IntEnum):
    """States of a guest, numbered as GUEST_STATUS reports them."""

    UNINIT = 0
    """No such guest."""
    LUPDATE = 1
    """Being filled and measured."""
    LSECRET = 2
    """Measured; secrets may be injected."""
    RUNNING = 3
    """Launch finished."""


@dataclass(slots=True)
class Guest:
    """One guest context. ``keys`` are gone once the launch is finished."""

    handle: int
    policy: Policy
    keys: TransportKeys | None
    state: GuestState = GuestState.LUPDATE
    asid: int = 0
    """0 while not activated."""
    measure: bytes = b""
    """The 32-byte measurement, from LAUNCH_MEASURE until LAUNCH_FINISH."""
    launch_digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def require(self, *allowed: GuestState) -> None:
        """INVALID_GUEST_STATE unless the guest is in one of the states."""
        if self.state not in allowed:
            wanted = " or ".join(state.name for state in allowed)
            raise Status.INVALID_GUEST_STATE.error(f"the guest is in state {self.state.name}, not {wanted}")

    def require_active(self) -> None:
        """INACTIVE unless the guest has an address space id."""
        if not self.asid:
            raise Status.INACTIVE.error("the guest has no address space id")


class GuestTable:
    """Guests by handle, and which address space ids are taken or not yet flushed."""

    def __init__(self) -> None:
        self._guests: dict[int, Guest] = {}
        self._dirty_asids: set[int] = set()

    def __len__(self) -> int:
        return len(self._guests)

    def find(self, handle: int) -> Guest | None:
        """The guest of ``handle``, if it is allocated."""
        return self._guests.get(handle)

    def get(self, handle: int) -> Guest:
        """The guest of ``handle``, else INVALID_GUEST."""
        guest = self._guests.get(handle)
        if guest is None:
            raise Status.INVALID_GUEST.error(f"there is no guest {handle}")
        return guest

    def free_handle(self) -> int:
        """The lowest handle not in use, else RESOURCE_LIMIT."""
        for handle in range(1, MAX_GUESTS + 1):
            if handle not in self._guests:
                return handle
        raise Status.RESOURCE_LIMIT.error(f"all {MAX_GUESTS} guest contexts are in use")

    def add(self, guest: Guest) -> None:
        """Register a guest under a handle from :meth:`free_handle`."""
        self._guests[guest.handle] = guest

    def remove(self, guest: Guest) -> None:
        """Forget an inactive guest, else ACTIVE."""
        if guest.asid:
            raise Status.ACTIVE.error("the guest is still activated")
        guest.keys = None
        del self._guests[guest.handle]

    def activate(self, guest: Guest, asid: int) -> None:
        """Bind ``guest`` to ``asid``. Order of the checks: the id's range, its user, the guest, the flush."""
        if not 1 <= asid <= MAX_ASID:
            raise Status.INVALID_ASID.error(f"address space id {asid} is not in 1..{MAX_ASID}")
        if any(other.asid == asid for other in self._guests.values()):
            raise Status.ASID_OWNED.error(f"address space id {asid} is taken")
        if guest.asid:
            raise Status.ACTIVE.error("the guest is activated already")
        if asid in self._dirty_asids:
            raise Status.DF_FLUSH_REQUIRED.error(f"address space id {asid} needs DF_FLUSH")
        guest.asid = asid

    def deactivate(self, guest: Guest) -> None:
        """Unbind ``guest``; its address space id stays dirty until :meth:`flush`."""
        guest.require_active()
        self._dirty_asids.add(guest.asid)
        guest.asid = 0

    def flush(self) -> None:
        """DF_FLUSH: every unused address space id may be used again."""
        self._dirty_asids.clear()

    def clear(self) -> None:
        """SHUTDOWN: forget every guest and its keys."""
        for guest in self._guests.values():
            guest.keys = None
        self._guests.clear()
        self._dirty_asids.clear()

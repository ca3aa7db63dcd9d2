# SPDX-License-Identifier: Apache-2.0
"""The guest commands of the software firmware, LAUNCH_START to DECOMMISSION (AMD SEV API 0.24).

Each function is one command. The order of its checks is that of AMD's firmware, numbered where it matters:
it is not uniform (LAUNCH_UPDATE_DATA looks at the guest's state before the address, LAUNCH_SECRET after),
and a caller can tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sealpod.errors import DecodeError
from sealpod.platform.model.firmware import BufferTooSmall, PlatformState
from sealpod.platform.model.guests import Guest, GuestState
from sealpod.platform.model.memory import covers
from sealpod.secret import SecretBytes
from sealpod.sev import cert
from sealpod.sev.measurement import MEASUREMENT_SIZE, NONCE_SIZE, Measurement, compute_measurement
from sealpod.sev.packet import HEADER_SIZE, MAX_DATA_SIZE, unpack
from sealpod.sev.policy import Policy, PolicyFlag
from sealpod.sev.session import SESSION_SIZE, TransportKeys, open_session
from sealpod.sev.status import Status

if TYPE_CHECKING:
    from sealpod.platform.model.firmware import Firmware
    from sealpod.platform.model.memory import Memory

VMSA_SIZE: Final = 4096
"""Bytes of the page that holds one vCPU's registers."""

_ALIGNMENT: Final = 16
_HASH_STEP: Final = 1 << 20
"""Bytes read from guest memory at a time."""

_NO_SESSION: Final = TransportKeys(tek=SecretBytes(bytes(16)), tik=SecretBytes(bytes(16)))
"""Keys of a guest without an owner: known to everybody, so its measurement proves nothing."""


def launch_start(
    firmware: Firmware, *, policy: int, handle: int = 0, godh: bytes | None, session: bytes | None
) -> int:
    """LAUNCH_START (030): a new guest in LUPDATE; returns its handle.

    Without ``godh`` a session is ignored, as the firmware does. ``handle`` not 0 names a guest whose memory
    key is to be shared.
    """
    # (1) platform state
    firmware.require(PlatformState.INIT, PlatformState.WORKING)
    word = Policy(policy)
    # (2) the owner's session and what its policy demands of this firmware
    keys = _NO_SESSION if godh is None else _open(firmware, word, godh, session or b"")
    # (3) sharing a memory key
    if handle:
        _check_sharing(firmware.guests.get(handle), word)
    # (4) a free context
    free = firmware.guests.free_handle()
    # (5) SEV-ES
    if PolicyFlag.ES in word.flags and not firmware.es:
        raise Status.UNSUPPORTED.error("the policy demands SEV-ES, for which the platform is not initialised")
    # (6) done
    firmware.guests.add(Guest(free, word, keys))
    firmware.state = PlatformState.WORKING
    return free


def _open(firmware: Firmware, policy: Policy, godh: bytes, session: bytes) -> TransportKeys:
    if len(session) != SESSION_SIZE:
        raise Status.INVALID_LENGTH.error(f"the session has {len(session)} bytes, not {SESSION_SIZE}")
    if len(godh) != cert.SIZE:
        raise Status.INVALID_LENGTH.error(f"the owner's key has {len(godh)} bytes, not {cert.SIZE}")
    try:
        owner = cert.Certificate.decode(godh)
    except DecodeError as error:
        raise Status.INVALID_CERTIFICATE.error(error.message) from error
    pdh = firmware.identity.pdh.key
    return open_session(pdh, owner, session, policy, version=firmware.version)


def _check_sharing(other: Guest, policy: Policy) -> None:
    if other.policy != policy or PolicyFlag.NOKS in policy.flags:
        raise Status.POLICY_FAILURE.error(f"guest {other.handle}'s memory key may not be shared")


def activate(firmware: Firmware, *, handle: int, asid: int) -> None:
    """ACTIVATE (021): bind the guest to an address space id."""
    firmware.require(PlatformState.WORKING)
    firmware.guests.activate(firmware.guests.get(handle), asid)


def deactivate(firmware: Firmware, *, handle: int) -> None:
    """DEACTIVATE (022): unbind it; the id is usable again after DF_FLUSH."""
    firmware.require(PlatformState.WORKING)
    firmware.guests.deactivate(firmware.guests.get(handle))


def decommission(firmware: Firmware, *, handle: int) -> None:
    """DECOMMISSION (020): forget an inactive guest."""
    firmware.require(PlatformState.WORKING)
    firmware.guests.remove(firmware.guests.get(handle))
    if not len(firmware.guests):
        firmware.state = PlatformState.INIT


def guest_status(firmware: Firmware, *, handle: int) -> dict[str, int]:
    """GUEST_STATUS (023): ``policy``, ``asid``, ``state``; an unknown handle is no error but state 0."""
    firmware.require(PlatformState.INIT, PlatformState.WORKING)
    guest = firmware.guests.find(handle)
    if guest is None:
        return {"policy": 0, "asid": 0, "state": int(GuestState.UNINIT)}
    return {"policy": guest.policy.value, "asid": guest.asid, "state": int(guest.state)}


def launch_update_data(firmware: Firmware, memory: Memory, *, handle: int, paddr: int, length: int) -> None:
    """LAUNCH_UPDATE_DATA (031): absorb ``length`` bytes at ``paddr`` into the launch digest."""
    firmware.require(PlatformState.WORKING)
    guest = firmware.guests.get(handle)
    guest.require(GuestState.LUPDATE)
    _absorb(guest, memory, paddr, length)


def launch_update_vmsa(firmware: Firmware, memory: Memory, *, handle: int, paddr: int, length: int) -> None:
    """LAUNCH_UPDATE_VMSA (032): absorb the page of one vCPU's registers into the launch digest."""
    # The length comes first, even before the platform's state.
    if length != VMSA_SIZE:
        raise Status.INVALID_LENGTH.error(f"a VMSA has {VMSA_SIZE} bytes, not {length}")
    firmware.require(PlatformState.WORKING)
    guest = firmware.guests.get(handle)
    guest.require(GuestState.LUPDATE)
    if PolicyFlag.ES not in guest.policy.flags:
        raise Status.UNSUPPORTED.error("the guest's policy is not one of SEV-ES")
    _absorb(guest, memory, paddr, length)


def _absorb(guest: Guest, memory: Memory, paddr: int, length: int) -> None:
    guest.require_active()
    _require_aligned(paddr)
    if length <= 0 or length % _ALIGNMENT:
        raise Status.INVALID_LENGTH.error(f"{length} bytes are not a positive multiple of {_ALIGNMENT}")
    _require_covered(memory, paddr, length)
    # Absorb only once everything is read, so that a read error leaves the digest as it was.
    digest = guest.launch_digest.copy()
    for offset in range(0, length, _HASH_STEP):
        digest.update(memory.read(paddr + offset, min(_HASH_STEP, length - offset)))
    guest.launch_digest = digest


def launch_measure(firmware: Firmware, *, handle: int, length: int) -> Measurement:
    """LAUNCH_MEASURE (033): close the digest and MAC it. A ``length`` too small changes no state.

    The guest need not be activated: AMD's firmware does not ask either.
    """
    firmware.require(PlatformState.WORKING)
    guest = firmware.guests.get(handle)
    guest.require(GuestState.LUPDATE)
    if length < MEASUREMENT_SIZE:
        raise BufferTooSmall({"length": MEASUREMENT_SIZE})
    mnonce = firmware.rng(NONCE_SIZE)
    digest = guest.launch_digest.digest()
    tik = _keys(guest).tik
    guest.measure = compute_measurement(tik, firmware.version, guest.policy, digest, mnonce)
    guest.state = GuestState.LSECRET
    return Measurement(guest.measure, mnonce)


def launch_secret(
    firmware: Firmware,
    memory: Memory,
    *,
    handle: int,
    header: bytes,
    paddr: int,
    guest_length: int,
    data: bytes,
) -> None:
    """LAUNCH_SECRET (034): check and decrypt a packet into guest memory at ``paddr``. May be repeated."""
    firmware.require(PlatformState.WORKING)
    guest = firmware.guests.get(handle)
    _require_aligned(paddr)
    _require_secret_lengths(header, guest_length, data)
    guest.require(GuestState.LSECRET)
    guest.require_active()
    _require_covered(memory, paddr, guest_length)
    plaintext = unpack(_keys(guest), header, data, guest.measure)
    memory.write(paddr, plaintext.reveal())


def launch_finish(firmware: Firmware, *, handle: int) -> None:
    """LAUNCH_FINISH (035): the guest may run; its transport keys and measurement are forgotten."""
    firmware.require(PlatformState.WORKING)
    guest = firmware.guests.get(handle)
    guest.require(GuestState.LSECRET)
    guest.keys = None
    guest.measure = b""
    guest.state = GuestState.RUNNING


def debug(firmware: Firmware, *, handle: int) -> None:
    """DBG_DECRYPT and DBG_ENCRYPT (060, 061): forbidden by the policy, or nothing a model could do."""
    firmware.require(PlatformState.WORKING)
    if PolicyFlag.NODBG in firmware.guests.get(handle).policy.flags:
        raise Status.POLICY_FAILURE.error("the guest's policy forbids debugging")
    raise Status.UNSUPPORTED.error("a model guest's memory is not encrypted: read and write it as it is")


def _keys(guest: Guest) -> TransportKeys:
    if guest.keys is None:
        raise Status.INVALID_GUEST_STATE.error("the guest's launch is finished")
    return guest.keys


def _require_aligned(paddr: int) -> None:
    if paddr % _ALIGNMENT:
        raise Status.INVALID_ADDRESS.error(f"{paddr:#x} is not a multiple of {_ALIGNMENT}")


def _require_covered(memory: Memory, paddr: int, length: int) -> None:
    if not covers(memory, paddr, length):
        raise Status.INVALID_ADDRESS.error(f"{length} bytes at {paddr:#x} are not in the guest's memory")


def _require_secret_lengths(header: bytes, guest_length: int, data: bytes) -> None:
    if len(header) != HEADER_SIZE:
        raise Status.INVALID_LENGTH.error(f"the packet header has {len(header)} bytes, not {HEADER_SIZE}")
    if not 0 < guest_length <= MAX_DATA_SIZE or guest_length % _ALIGNMENT:
        raise Status.INVALID_LENGTH.error(f"a secret of {guest_length} bytes")
    if guest_length != len(data):
        raise Status.INVALID_LENGTH.error(f"{len(data)} bytes of packet for {guest_length} of guest memory")

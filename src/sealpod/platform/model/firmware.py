# SPDX-License-Identifier: Apache-2.0
"""The software SEV firmware: platform states and the platform management commands (AMD SEV API 0.24).

A pure state machine: certificates and numbers in, certificates and numbers out, or ``FirmwareError`` with
the status a real firmware answers. The chip, the persistent store and the source of random bytes are
arguments. Checks come in the order of AMD's firmware (platform state, guest handle, then per command), so
that callers see the same error win. The launch commands are in :mod:`.launching`.

States: INIT takes UNINIT to INIT; the first guest takes INIT to WORKING and the last one leaving takes it
back; SHUTDOWN leads from anywhere to UNINIT.

Left out: migration. What reads and changes the identity is in :mod:`.managing`, attestation reports are in
:mod:`.attesting`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, Protocol

from sealpod.errors import DecodeError, FirmwareError
from sealpod.platform.model.chip import VERSION, Chip, RandomBytes, cek_certificate
from sealpod.platform.model.guests import GuestTable
from sealpod.platform.model.identity import Identity, make_identity, seal, unseal
from sealpod.sev import cert
from sealpod.sev.status import Status
from sealpod.sev.version import FirmwareVersion

IDENTIFIER_SIZE: Final = 64
"""Bytes GET_ID gives for one socket."""
CHAIN_SIZE: Final = 3 * cert.SIZE
"""Bytes of PDH_CERT_EXPORT's chain: PEK, OCA, CEK."""

_INIT_ES: Final = 0x1
_IV_LENGTH: Final = 16


class PlatformState(enum.IntEnum):
    """States of the platform, numbered as PLATFORM_STATUS reports them."""

    UNINIT = 0
    """Powered on, no keys loaded."""
    INIT = 1
    """Keys loaded, no guest."""
    WORKING = 2
    """At least one guest."""


class NonVolatile(Protocol):
    """The firmware's persistent store. INIT runs alone on it: the caller holds a lock meanwhile."""

    def load(self) -> bytes | None:
        """What was saved last, or None."""

    def save(self, data: bytes) -> None:
        """Replace the content, all or nothing."""

    def erase(self) -> None:
        """Empty the store."""


class BufferTooSmall(FirmwareError):
    """INVALID_LENGTH of a command that also says which lengths it needs."""

    def __init__(self, lengths: Mapping[str, int]) -> None:
        needed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        error = Status.INVALID_LENGTH.error(f"needs {needed}")
        super().__init__(error.message, status=error.status, code=error.code)
        self.lengths = dict(lengths)


class Firmware:
    """One platform. Not safe for use from several threads, as the real one takes one command at a time."""

    def __init__(self, chip: Chip, store: NonVolatile, rng: RandomBytes) -> None:
        self.chip = chip
        self.rng = rng
        self.state = PlatformState.UNINIT
        self.guests = GuestTable()
        self._store = store
        self._identity: Identity | None = None
        self._sealed: bytes | None = None
        self._es = False

    @property
    def version(self) -> FirmwareVersion:
        """API version and build."""
        return VERSION

    @property
    def es(self) -> bool:
        """Initialised for SEV-ES guests."""
        return self._es

    @property
    def identity(self) -> Identity:
        """The loaded identity; INVALID_PLATFORM_STATE before INIT."""
        if self._identity is None:
            raise Status.INVALID_PLATFORM_STATE.error("the platform is not initialised")
        return self._identity

    def require(self, *allowed: PlatformState) -> None:
        """INVALID_PLATFORM_STATE unless the platform is in one of the states."""
        if self.state not in allowed:
            wanted = " or ".join(state.name for state in allowed)
            raise Status.INVALID_PLATFORM_STATE.error(f"the platform is {self.state.name}, not {wanted}")

    def init(self, *, flags: int = 0) -> None:
        """INIT (001): load the identity, or make one when the store is empty. Flag bit 0: SEV-ES.

        A store that cannot be read is erased and reported (SECURE_DATA_INVALID); the next INIT makes a new
        identity under the same CEK.
        """
        self.require(PlatformState.UNINIT)
        if flags & ~_INIT_ES:
            raise Status.INVALID_CONFIG.error(f"unknown INIT flags {flags:#x}")
        sealed = self._store.load()
        if sealed is None:
            self.save(make_identity(self.chip, self.rng))
        else:
            self._identity, self._sealed = self._unseal(sealed), sealed
        self._es = bool(flags & _INIT_ES)
        self.state = PlatformState.INIT

    def _unseal(self, sealed: bytes) -> Identity:
        try:
            return unseal(sealed, self.chip)
        except DecodeError as error:
            self._store.erase()
            raise Status.SECURE_DATA_INVALID.error(
                f"the stored platform identity is corrupt and was erased ({error.message})",
                remedy="run the command again: the platform gets a new identity under the same ARK",
            ) from error

    def save(self, identity: Identity) -> None:
        """Replace the identity, first in the store: when that fails, nothing has changed."""
        sealed = seal(identity, self.chip, iv=self.rng(_IV_LENGTH))
        self._store.save(sealed)
        self._identity, self._sealed = identity, sealed

    def refresh(self) -> None:
        """Take what another process saved meanwhile, before the identity is looked at to be changed."""
        sealed = self._store.load()
        if sealed is not None and sealed != self._sealed:
            self._identity, self._sealed = self._unseal(sealed), sealed

    def shutdown(self) -> None:
        """SHUTDOWN (002), from any state: forget guests and keys."""
        self.guests.clear()
        self._identity = None
        self._sealed = None
        self._es = False
        self.state = PlatformState.UNINIT

    def platform_reset(self) -> None:
        """PLATFORM_RESET (003): delete the identity; the next INIT makes a new one. The CEK stays."""
        self.require(PlatformState.UNINIT)
        self._store.erase()

    def platform_status(self) -> dict[str, int]:
        """PLATFORM_STATUS (004), from any state: version, state, ``owned``, ``es``, ``guest_count``."""
        return {
            "api_major": VERSION.api_major,
            "api_minor": VERSION.api_minor,
            "build": VERSION.build,
            "state": int(self.state),
            "owned": int(self._identity is not None and self._identity.owned),
            "es": int(self._es),
            "guest_count": len(self.guests),
        }

    def pdh_cert_export(self, *, pdh_length: int, chain_length: int) -> tuple[bytes, bytes]:
        """PDH_CERT_EXPORT (008): the PDH; and PEK, OCA and the CEK, which the firmware cannot sign."""
        self.require(PlatformState.INIT, PlatformState.WORKING)
        if pdh_length < cert.SIZE or chain_length < CHAIN_SIZE:
            raise BufferTooSmall({"pdh_length": cert.SIZE, "chain_length": CHAIN_SIZE})
        identity = self.identity
        cek = cek_certificate(self.chip.cek_key())
        chain = (identity.pek.certificate, identity.oca.certificate, cek)
        return identity.pdh.certificate.encode(), b"".join(link.encode() for link in chain)

    def df_flush(self) -> None:
        """DF_FLUSH (00A), from any state: address space ids left by guests may be used again."""
        self.guests.flush()

    def get_id(self, *, length: int) -> bytes:
        """GET_ID (00C), from any state: the chip's identifier, 64 bytes (the model has one socket)."""
        if length < IDENTIFIER_SIZE:
            raise BufferTooSmall({"length": IDENTIFIER_SIZE})
        return self.chip.identifier()

# SPDX-License-Identifier: Apache-2.0
"""AMD's key distribution service: signed CEKs by chip id, and AMD's authorities.

Firmware exports its CEK unsigned; AMD signs it and serves it by the chip's identifier (GET_ID)::

    https://kdsintf.amd.com/cek/id/<128 upper-case hex digits>      one CEK certificate, 2084 bytes
    https://download.amd.com/developer/eula/sev/ask_ark_<generation>.cert      ASK, ARK

Neither answer is believed for where it came from. A CEK is returned only when it holds the very key the
firmware exported, an authority only when both of its certificates are the pinned ones; the same check is made
on what the cache has. What lies there is public, so the cache is a convenience and never a reason to trust.

A request is tried three times: after an answer that is not a success the service's ``Retry-After`` is
waited for, or five seconds. A chain that has its CEK signed, and ASK and ARK with it, needs none of this.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from sealpod.errors import (
    DecodeError,
    NotFoundError,
    UnavailableError,
    UsageError,
    VerificationError,
)
from sealpod.platform.kdshttp import Connect, Fetcher, connect_with_tls
from sealpod.sev import cert
from sealpod.sev.authority import Authority, Generation, detect
from sealpod.sev.cert import Certificate, Signature
from sealpod.sev.chainfile import PlatformChain

CEK_HOST: Final = "kdsintf.amd.com"
CEK_PATH: Final = "/cek/id/"
AUTHORITY_PLACES: Final = (
    ("download.amd.com", "/developer/eula/sev/"),
    ("developer.amd.com", "/wp-content/resources/"),
)
"""Where AMD publishes the ``ask_ark_*.cert`` files now, and where it did before."""
IDENTIFIER_SIZE: Final = 64
"""Bytes of GET_ID for one socket."""
SYSTEM_CACHE: Final = "/var/cache/sealpod/kds"

_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o644
_T = TypeVar("_T")


def default_cache_dir(environ: Mapping[str, str] | None = None, *, uid: int | None = None) -> str:
    """Where downloads are kept: ``/var/cache`` for root, else by the XDG rules (relative paths ignored)."""
    environ = os.environ if environ is None else environ
    if (os.geteuid() if uid is None else uid) == 0:
        return SYSTEM_CACHE
    cache_home = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache_home):
        home = environ.get("HOME") or os.path.expanduser("~")
        cache_home = os.path.join(home, ".cache")
    return os.path.join(cache_home, "sealpod", "kds")


@dataclass(frozen=True, slots=True)
class KeyDistributionService:
    """AMD's service, with a cache directory. ``offline`` answers from the cache or refuses."""

    cache: str | None = field(default_factory=default_cache_dir)
    """Directory of earlier downloads; ``None`` keeps none."""
    offline: bool = False
    connect: Connect = connect_with_tls
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    progress: Callable[[str], None] = lambda _: None
    """Told, in a sentence, what is fetched and why it is waited."""

    def signed_cek(self, identifier: bytes, exported: Certificate) -> Certificate:
        """AMD's certificate for the chip of this identifier (64 bytes), whose firmware exported this CEK.

        :raise UsageError: an identifier of another length.
        :raise NotFoundError: AMD does not know the chip.
        :raise UnavailableError: the service cannot be reached, keeps failing, or ``offline``.
        :raise DecodeError: the answer is no CEK.
        :raise VerificationError: the CEK is another chip's.
        """
        if len(identifier) != IDENTIFIER_SIZE:
            raise UsageError(
                f"a chip's identifier has {IDENTIFIER_SIZE} bytes, got {len(identifier)}",
                code="kds.identifier",
                remedy="on a machine with two sockets give one of the two halves",
            )
        name = identifier.hex().upper()
        return self._get(
            f"cek-{name.lower()}.cert",
            ((CEK_HOST, CEK_PATH + name),),
            lambda data: _check_cek(data, exported),
            "the signed CEK of this chip",
        )

    def authority(self, generation: Generation) -> Authority:
        """AMD's ASK and ARK of a generation, both the pinned ones.

        :raise UnavailableError: as :meth:`signed_cek`. :raise VerificationError: other certificates.
        """
        file = generation.pair_file
        places = tuple((host, directory + file) for host, directory in AUTHORITY_PLACES)
        what = f"ASK and ARK of {generation.label}"
        return self._get(file, places, lambda data: _check_authority(data, generation), what)

    def authority_of(self, cek: Certificate) -> Authority:
        """The authority whose ASK signed this CEK, generation after generation.

        :raise NotFoundError: none of AMD's did; also as :meth:`authority`.
        """
        return detect(cek, (self.authority(generation) for generation in Generation))

    def signed_chain(self, identifier: bytes, exported: PlatformChain) -> PlatformChain:
        """An exported chain with its CEK signed; one whose CEK is signed already comes back as it is.

        :raise SealpodError: as :meth:`signed_cek`.
        """
        if exported.cek.signatures != (Signature(), Signature()):
            return exported
        return exported.with_cek(self.signed_cek(identifier, exported.cek))

    def _get(
        self,
        name: str,
        places: tuple[tuple[str, str], ...],
        check: Callable[[bytes], _T],
        what: str,
    ) -> _T:
        # A damaged cache entry is as good as none: it is fetched again and replaced.
        try:
            return check(self._read(name))
        except OSError:
            pass
        except (DecodeError, VerificationError) as error:
            self.progress(f"{what} in the cache ({self.cache}) is not taken: {error.message}")
        if self.offline:
            raise UnavailableError(
                f"the cache does not have {what}, and nothing may be fetched",
                code="kds.offline",
                remedy="run once without --offline, or give a full chain (sealpod sev export --full)",
            )
        fetcher = Fetcher(self.connect, self.sleep, self.clock, self.progress)
        for host, path in places[:-1]:
            with contextlib.suppress(NotFoundError, UnavailableError, DecodeError):
                return self._fetch(fetcher, name, host, path, check, what)
        return self._fetch(fetcher, name, *places[-1], check, what)

    def _fetch(
        self, fetcher: Fetcher, name: str, host: str, path: str, check: Callable[[bytes], _T], what: str
    ) -> _T:
        data = fetcher.fetch(host, path, what)
        found = check(data)
        with contextlib.suppress(OSError):  # a cache that cannot be written costs a download, nothing else
            self._write(name, data)
        return found

    def _read(self, name: str) -> bytes:
        if self.cache is None:
            raise FileNotFoundError(name)
        with open(os.path.join(self.cache, name), "rb") as file:
            return file.read(Fetcher.LIMIT + 1)

    def _write(self, name: str, data: bytes) -> None:
        if self.cache is None:
            return
        os.makedirs(self.cache, _DIRECTORY_MODE, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=self.cache, prefix=f".{name}.")
        try:
            with open(fd, "wb") as file:
                os.fchmod(fd, _FILE_MODE)
                file.write(data)
            os.replace(temporary, os.path.join(self.cache, name))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _check_cek(data: bytes, exported: Certificate) -> Certificate:
    try:
        found = Certificate.decode(data)
        found.require_canonical()
    except DecodeError as error:
        raise DecodeError(f"not a CEK from AMD: {error.message}", code="kds.answer") from error
    if found.usage != cert.Usage.CEK:
        raise DecodeError(f"a {found.usage.name} in place of a CEK from AMD", code="kds.answer")
    if (found.algorithm, found.pubkey) != (exported.algorithm, exported.pubkey):
        raise VerificationError(
            "AMD's CEK for this identifier holds another key than the firmware exports",
            code="kds.other-chip",
            remedy="identifier and chain must be from one chip; export both again",
        )
    if cert.Usage.ASK not in (slot.usage for slot in found.signatures):
        raise DecodeError("AMD's answer is a CEK without AMD's signature", code="kds.answer")
    return found


def _check_authority(data: bytes, generation: Generation) -> Authority:
    try:
        found = Authority.decode(data)
    except DecodeError as error:
        raise DecodeError(f"not an ASK and ARK from AMD: {error.message}", code="kds.answer") from error
    if found.generation is not generation:
        raise VerificationError(
            f"what was served as ASK and ARK of {generation.label} is not what is pinned",
            code="kds.pin",
            remedy="do not use it; give the authority as a file from a source you trust",
        )
    return found

# SPDX-License-Identifier: Apache-2.0
"""Certificate authorities from files: ASK and ARK together, and which generation of processors they serve.

Forms people have them in: AMD's ``ask_ark_<generation>.cert``, which is the ASK followed by the ARK (1664
bytes for Naples, 3200 for later ones), and a directory as AMD's sev-tool writes it, with ``ask_ark.cert`` or
``ask.cert`` beside ``ark.cert``. Both parsers take bytes; reading files is the caller's.

A CEK does not say which generation it is of. :func:`detect` finds out as other tools do: the first authority
whose ASK signed it, in the order Naples, Rome, Milan, Genoa, Turin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from sealpod.errors import DecodeError, NotFoundError, UsageError, VerificationError
from sealpod.sev.ca import CaCertificate
from sealpod.sev.cert import Certificate
from sealpod.sev.roots import AMD_ARKS, AMD_ASKS
from sealpod.sev.signature import Usage

MAX_FILE_SIZE: Final = 1 << 14
"""Bytes of a CA file looked at; ASK and ARK have 3200."""
ASK_FILE: Final = "ask.cert"
ARK_FILE: Final = "ark.cert"
PAIR_FILE: Final = "ask_ark.cert"


class Generation(StrEnum):
    """Processors that share an authority, in the order they are tried in."""

    NAPLES = "naples"
    ROME = "rome"
    MILAN = "milan"
    GENOA = "genoa"
    TURIN = "turin"

    @classmethod
    def parse(cls, text: str) -> Self:
        """A generation from its name; Bergamo and Siena have Genoa's authority.

        :raise UsageError: a name AMD has no authority for.
        """
        name = text.lower()
        try:
            return cls("genoa" if name in ("bergamo", "siena") else name)
        except ValueError:
            names = ", ".join(cls)
            raise UsageError(
                f"no generation of processors: {text[:40]!r} (known: {names})", code="sev.generation"
            ) from None

    @property
    def label(self) -> str:
        """``AMD Milan``: the name the pins carry."""
        return f"AMD {self.value.capitalize()}"

    @property
    def pair_file(self) -> str:
        """The name AMD publishes ASK and ARK under: ``ask_ark_milan.cert``."""
        return f"ask_ark_{self.value}.cert"


@dataclass(frozen=True, slots=True)
class Authority:
    """An ASK and the ARK that signed it. Whether to trust the ARK is a question of its own."""

    ask: CaCertificate
    ark: CaCertificate

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The authority at the start of ``data``: ASK and ARK, in AMD's order or the other one.

        The signatures are not verified yet. What follows is not looked at.

        :raise DecodeError: truncated, malformed, or not one of each.
        """
        if len(data) > MAX_FILE_SIZE:
            raise _malformed(f"{len(data)} bytes are no ASK and ARK")
        first, size = CaCertificate.decode(data)
        second, _ = CaCertificate.decode(data[size:])
        return cls.of(first, second)

    @classmethod
    def of(cls, first: CaCertificate, second: CaCertificate) -> Self:
        """The authority of these two, in whichever order.

        :raise DecodeError: they are not one ASK and one ARK.
        """
        by_usage = {found.usage: found for found in (first, second)}
        if len(by_usage) != 2:
            raise _malformed(f"two certificates of usage {first.usage.name}, not an ASK and an ARK")
        return cls(by_usage[Usage.ASK], by_usage[Usage.ARK])

    def encode(self) -> bytes:
        """ASK, then ARK, as AMD publishes them: 1664 or 3200 bytes."""
        return self.ask.encode() + self.ark.encode()

    def verify(self) -> None:
        """Check that the ARK signed itself and the ASK. This says nothing about whose they are.

        :raise VerificationError: a signature does not hold.
        """
        self.ark.verify_signed_by(self.ark)
        self.ask.verify_signed_by(self.ark)

    @property
    def generation(self) -> Generation | None:
        """AMD's generation, by the pins of both certificates; nothing for anybody else's authority."""
        label = AMD_ARKS.get(self.ark.sha256)
        if label is None or AMD_ASKS.get(self.ask.sha256) != label:
            return None
        return next(generation for generation in Generation if generation.label == label)


def decode_directory(files: Mapping[str, bytes]) -> tuple[Authority, ...]:
    """The authorities in a directory's files, by name: in the order :func:`detect` has to try them.

    Looked at are ``ask_ark.cert``, ``ask.cert`` with ``ark.cert``, and AMD's own names with a generation.

    :raise NotFoundError: none of them is there, or one of a pair is missing.
    :raise DecodeError: one of them is malformed.
    """
    found = [Authority.decode(files[PAIR_FILE])] if PAIR_FILE in files else []
    if not found and (ASK_FILE in files or ARK_FILE in files):
        found.append(_from_two(files))
    found += [Authority.decode(files[one.pair_file]) for one in Generation if one.pair_file in files]
    if not found:
        raise NotFoundError(
            "the directory has no ASK and ARK",
            code="ca.absent",
            remedy=f"put {PAIR_FILE}, or {ASK_FILE} and {ARK_FILE}, or AMD's ask_ark_*.cert there",
        )
    return tuple(found)


def detect(cek: Certificate, authorities: Iterable[Authority]) -> Authority:
    """The first of ``authorities`` whose ASK signed the CEK.

    :raise NotFoundError: none did. An unsigned CEK, as firmware exports it, says so.
    """
    for authority in authorities:
        try:
            cek.verify_signed_by(authority.ask.public_key(), Usage.ASK, authority.ask.algorithm)
        except VerificationError:
            continue
        return authority
    if all(slot.usage == Usage.INVALID for slot in cek.signatures):
        raise NotFoundError(
            "the CEK is not signed: this is how firmware exports it",
            code="ca.unsigned-cek",
            remedy="have the signed CEK of this chip fetched from AMD, or give a full chain",
        )
    raise NotFoundError(
        "no known ASK signed this CEK",
        code="ca.no-issuer",
        remedy="give the ASK and ARK of its platform as a file",
    )


def _from_two(files: Mapping[str, bytes]) -> Authority:
    for name in (ASK_FILE, ARK_FILE):
        if name not in files:
            raise NotFoundError(
                f"the directory lacks {name}", code="ca.absent", remedy=f"put {name} beside its companion"
            )
    ask, _ = CaCertificate.decode(files[ASK_FILE])
    ark, _ = CaCertificate.decode(files[ARK_FILE])
    return Authority.of(ask, ark)


def _malformed(message: str) -> DecodeError:
    return DecodeError(message, code="ca.malformed", remedy="give ASK and ARK as AMD publishes them")

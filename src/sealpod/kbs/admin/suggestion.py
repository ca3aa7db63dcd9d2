# SPDX-License-Identifier: Apache-2.0
"""``policy suggest``: the policy that allows just the guests it is given.

Guests come as records of ``sealpod measure -o json``, also of several vCPU counts at once, as digests, or as
files. What the policy does not pin down, or pins down and should not, is said in notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sealpod.errors import UsageError
from sealpod.kbs.core.evidence import encode_digest
from sealpod.kbs.core.policy import Rule
from sealpod.measure.components import Components
from sealpod.measure.firmware import Firmware
from sealpod.measure.hashes import HashesTable
from sealpod.measure.launch import SEV, SEV_ES, Vcpus, measure_sev, measure_seves
from sealpod.measure.reading import read_guests
from sealpod.sev.policy import Policy, PolicyFlag

DEFAULT_POLICY: Final = 3
"""No debugging, no key sharing; with SEV-ES guests, :data:`ES_POLICY`."""
ES_POLICY: Final = 7
MAX_VCPUS: Final = 512
"""vCPUs of a range; QEMU's machines end there or before."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest to allow: its launch digest, and what it is as far as that is known."""

    digest: bytes
    mode: str | None = None
    """``sev`` or ``seves``; None when only the digest is known."""
    vcpus: int | None = None
    policy: int | None = None

    def label(self) -> str:
        """For people."""
        names = {SEV: "SEV", SEV_ES: "SEV-ES"}
        count = "" if self.vcpus is None else f", {self.vcpus} vCPU{'s' * (self.vcpus != 1)}"
        return f"{names.get(self.mode or '', 'digest')}{count}"


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """A guest as files' contents."""

    firmware: bytes
    kernel: bytes | None
    initrd: bytes | None
    cmdline: str | None


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A policy, the guests it allows in the order of its digests, and what to think about."""

    rule: Rule
    guests: tuple[Guest, ...]
    notes: tuple[str, ...]


def guests_of_record(text: str | bytes) -> tuple[Guest, ...]:
    """The guests of a record of ``sealpod measure -o json``.

    :raise DecodeError: it is none. :raise UsageError: of SEV-SNP, which has another protocol.
    """
    return guests_of(read_guests(text))


def guests_of(records: Iterable[Components]) -> tuple[Guest, ...]:
    """The guests of measured components.

    :raise UsageError: of SEV-SNP, which has another protocol.
    """
    return tuple(_guest(one) for one in records)


def guests_of_files(files: GuestFiles, *, sev_es: bool, vcpus: Vcpus) -> tuple[Guest, ...]:
    """The guests these files make: one, or with SEV-ES one for each count of vCPUs.

    :raise SealpodError: the files cannot be measured.
    """
    table: Callable[[], HashesTable] | None = None
    if files.kernel is not None:
        kernel = files.kernel
        table = lambda: HashesTable.of(kernel, files.initrd, files.cmdline)  # noqa: E731
    firmware = Firmware.of(files.firmware)
    launch = measure_seves(firmware, table, vcpus) if sev_es else measure_sev(firmware, table)
    return tuple(Guest(digest, launch.mode, count) for count, digest in launch.digests)


def vcpu_range(text: str) -> tuple[int, ...]:
    """``2`` or ``1-8`` or ``1,2,4-6`` as counts.

    :raise UsageError: it is something else.
    """
    counts: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isascii() and first.isdigit() and ((last.isascii() and last.isdigit()) or not dash)):
            raise _bad_range(text)
        low, high = int(first[:6]), int((last if dash else first)[:6])
        if not 1 <= low <= high <= MAX_VCPUS:
            raise _bad_range(text)
        counts.update(range(low, high + 1))
    return tuple(sorted(counts))


def suggest(
    guests: Iterable[Guest],
    *,
    policies: Sequence[int] = (),
    min_api: tuple[int, int] = (0, 0),
    build_ids: Sequence[int] = (),
) -> Suggestion:
    """The policy for these guests. Without ``policies``, the records' own or the usual ones.

    :raise UsageError: no guest.
    """
    known = {guest.digest: guest for guest in guests}
    if not known:
        raise UsageError("no guest to allow", code="policy.no-guest", remedy="give a measurement or a digest")
    found = tuple(known.values())
    words = tuple(dict.fromkeys(policies)) or _policies(found)
    rule = Rule(tuple(encode_digest(guest.digest) for guest in found), words, min_api, tuple(build_ids))
    return Suggestion(rule, found, tuple(_notes(found, rule)))


def _guest(record: Components) -> Guest:
    if record.mode not in (SEV, SEV_ES):
        raise UsageError(
            f"a guest of mode {record.mode} cannot be attested by this protocol",
            code="policy.mode",
            remedy="simple-kbs' protocol is for SEV and SEV-ES guests",
        )
    return Guest(bytes.fromhex(record.digest), record.mode, record.vcpus, record.policy)


def _policies(guests: Sequence[Guest]) -> tuple[int, ...]:
    words = [
        guest.policy if guest.policy is not None else ES_POLICY if guest.mode == SEV_ES else DEFAULT_POLICY
        for guest in guests
    ]
    return tuple(dict.fromkeys(words))


def _notes(guests: Sequence[Guest], rule: Rule) -> Iterable[str]:
    for word in rule.allowed_policies:
        policy = Policy.from_int(word)
        if PolicyFlag.NODBG not in policy.flags:
            yield f"SEV policy {policy.describe()} lets the host read the guest's memory"
        if policy.reserved:
            yield f"SEV policy {policy.describe()} is refused by the firmware"
    es = [PolicyFlag.ES in Policy.from_int(word).flags for word in rule.allowed_policies]
    if any(guest.mode == SEV_ES for guest in guests) and not all(es):
        yield "a digest of an SEV-ES guest needs an SEV policy with ES (4) and no other kind beside it"
    if any(guest.mode == SEV for guest in guests) and any(es):
        yield "a digest without vCPUs is of an SEV guest, and does not come about under an SEV policy with ES"
    if rule.min_api == (0, 0) and not rule.allowed_build_ids:
        yield "any firmware version is allowed; set minApi or buildIds to leave out those with known faults"


def _bad_range(text: str) -> UsageError:
    return UsageError(
        f"not a range of vCPUs: {text[:40]!r}", code="policy.vcpus", remedy="for instance 1-8 or 1,2,4"
    )

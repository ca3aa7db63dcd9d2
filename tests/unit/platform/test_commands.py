# SPDX-License-Identifier: Apache-2.0
"""Every command in the order of the SEV API: the states it is allowed in, and which error wins.

A row of ``CASES`` says: with the firmware in this situation, this command with these arguments answers this
status. Rows of one command are in the order in which the firmware checks, each breaking every later check too
where it can, so that a wrong order shows.
"""

from __future__ import annotations

from typing import Any

import pytest

from sealpod.platform.model.commands import Command
from sealpod.platform.model.guests import MAX_GUESTS
from sealpod.sev.status import Status

C, S = Command, Status

Case = tuple[str, Command, dict[str, int], dict[str, bytes], Status]

_EXPORT = {"pdh_length": 2084, "chain_length": 6252}
_START = {"policy": 0, "handle": 0}
_UPDATE = {"handle": 1, "paddr": 0, "length": 16}
_SECRET = {"handle": 1, "paddr": 0, "guest_length": 16}
_PACKET = {"header": bytes(52), "data": bytes(16)}
_NO_CERTIFICATES = {"pek": bytes(2084), "oca": bytes(2084)}
_VMSA = {"handle": 1, "paddr": 0, "length": 4096}
_NONCE = {"mnonce": bytes(16)}
_ES = 0x4

# Situations: uninit; init; started (guest 1 without address space id); active (guest 1 with id 1);
# measured (active, after LAUNCH_MEASURE); idle (measured, then deactivated); running (after LAUNCH_FINISH).
# With "es-" in front: initialised for SEV-ES, and the guest's policy is 5; "es" alone is init.
CASES: list[Case] = [
    ("init", C.INIT, {"flags": 2}, {}, S.INVALID_PLATFORM_STATE),
    ("active", C.INIT, {"flags": 0}, {}, S.INVALID_PLATFORM_STATE),
    ("uninit", C.INIT, {"flags": 2}, {}, S.INVALID_CONFIG),
    ("uninit", C.INIT, {"flags": 1}, {}, S.SUCCESS),
    ("uninit", C.INIT, {"flags": 0}, {}, S.SUCCESS),
    ("uninit", C.SHUTDOWN, {}, {}, S.SUCCESS),
    ("init", C.SHUTDOWN, {}, {}, S.SUCCESS),
    ("active", C.SHUTDOWN, {}, {}, S.SUCCESS),
    ("uninit", C.PLATFORM_RESET, {}, {}, S.SUCCESS),
    ("init", C.PLATFORM_RESET, {}, {}, S.INVALID_PLATFORM_STATE),
    ("active", C.PLATFORM_RESET, {}, {}, S.INVALID_PLATFORM_STATE),
    ("uninit", C.PLATFORM_STATUS, {}, {}, S.SUCCESS),
    ("active", C.PLATFORM_STATUS, {}, {}, S.SUCCESS),
    ("uninit", C.PEK_GEN, {}, {}, S.INVALID_PLATFORM_STATE),
    ("active", C.PEK_GEN, {}, {}, S.INVALID_PLATFORM_STATE),
    ("init", C.PEK_GEN, {}, {}, S.SUCCESS),
    ("uninit", C.PEK_CSR, {"length": 0}, {}, S.INVALID_PLATFORM_STATE),
    ("init", C.PEK_CSR, {"length": 2083}, {}, S.INVALID_LENGTH),
    ("active", C.PEK_CSR, {"length": 2084}, {}, S.SUCCESS),
    ("uninit", C.PEK_CERT_IMPORT, {}, _NO_CERTIFICATES, S.INVALID_PLATFORM_STATE),
    ("active", C.PEK_CERT_IMPORT, {}, _NO_CERTIFICATES, S.INVALID_PLATFORM_STATE),
    ("init", C.PEK_CERT_IMPORT, {}, _NO_CERTIFICATES | {"pek": bytes(2083)}, S.INVALID_LENGTH),
    ("init", C.PEK_CERT_IMPORT, {}, _NO_CERTIFICATES | {"oca": bytes(2085)}, S.INVALID_LENGTH),
    ("init", C.PEK_CERT_IMPORT, {}, _NO_CERTIFICATES, S.BAD_SIGNATURE),
    ("uninit", C.PDH_GEN, {}, {}, S.INVALID_PLATFORM_STATE),
    ("init", C.PDH_GEN, {}, {}, S.SUCCESS),
    ("active", C.PDH_GEN, {}, {}, S.SUCCESS),
    ("uninit", C.PDH_CERT_EXPORT, {"pdh_length": 0, "chain_length": 0}, {}, S.INVALID_PLATFORM_STATE),
    ("init", C.PDH_CERT_EXPORT, _EXPORT | {"pdh_length": 2083}, {}, S.INVALID_LENGTH),
    ("init", C.PDH_CERT_EXPORT, _EXPORT | {"chain_length": 6251}, {}, S.INVALID_LENGTH),
    ("active", C.PDH_CERT_EXPORT, _EXPORT, {}, S.SUCCESS),
    ("uninit", C.DF_FLUSH, {}, {}, S.SUCCESS),
    ("uninit", C.GET_ID, {"length": 63}, {}, S.INVALID_LENGTH),
    ("uninit", C.GET_ID, {"length": 64}, {}, S.SUCCESS),
    ("init", C.DECOMMISSION, {"handle": 9}, {}, S.INVALID_PLATFORM_STATE),
    ("active", C.DECOMMISSION, {"handle": 9}, {}, S.INVALID_GUEST),
    ("active", C.DECOMMISSION, {"handle": 0}, {}, S.INVALID_GUEST),
    ("active", C.DECOMMISSION, {"handle": 1}, {}, S.ACTIVE),
    ("started", C.DECOMMISSION, {"handle": 1}, {}, S.SUCCESS),
    ("init", C.ACTIVATE, {"handle": 9, "asid": 0}, {}, S.INVALID_PLATFORM_STATE),
    ("active", C.ACTIVATE, {"handle": 9, "asid": 0}, {}, S.INVALID_GUEST),
    ("active", C.ACTIVATE, {"handle": 1, "asid": 0}, {}, S.INVALID_ASID),
    ("active", C.ACTIVATE, {"handle": 1, "asid": 510}, {}, S.INVALID_ASID),
    ("active", C.ACTIVATE, {"handle": 1, "asid": 1}, {}, S.ASID_OWNED),
    ("active", C.ACTIVATE, {"handle": 1, "asid": 2}, {}, S.ACTIVE),
    ("idle", C.ACTIVATE, {"handle": 1, "asid": 1}, {}, S.DF_FLUSH_REQUIRED),
    ("started", C.ACTIVATE, {"handle": 1, "asid": 509}, {}, S.SUCCESS),
    ("init", C.DEACTIVATE, {"handle": 9}, {}, S.INVALID_PLATFORM_STATE),
    ("active", C.DEACTIVATE, {"handle": 9}, {}, S.INVALID_GUEST),
    ("started", C.DEACTIVATE, {"handle": 1}, {}, S.INACTIVE),
    ("active", C.DEACTIVATE, {"handle": 1}, {}, S.SUCCESS),
    ("uninit", C.GUEST_STATUS, {"handle": 1}, {}, S.INVALID_PLATFORM_STATE),
    ("init", C.GUEST_STATUS, {"handle": 1}, {}, S.SUCCESS),
    ("uninit", C.LAUNCH_START, _START, {"godh": b"", "session": b""}, S.INVALID_PLATFORM_STATE),
    ("init", C.LAUNCH_START, _START, {"godh": b""}, S.INVALID_LENGTH),
    ("init", C.LAUNCH_START, _START, {"godh": bytes(2084), "session": bytes(127)}, S.INVALID_LENGTH),
    ("init", C.LAUNCH_START, _START, {"godh": bytes(2083), "session": bytes(128)}, S.INVALID_LENGTH),
    ("init", C.LAUNCH_START, _START, {"godh": bytes(2084), "session": bytes(128)}, S.INVALID_CERTIFICATE),
    ("init", C.LAUNCH_START, {"policy": 0, "handle": 9}, {}, S.INVALID_GUEST),
    ("active", C.LAUNCH_START, {"policy": 1, "handle": 1}, {}, S.POLICY_FAILURE),
    ("active", C.LAUNCH_START, {"policy": 0, "handle": 1}, {}, S.SUCCESS),
    ("init", C.LAUNCH_START, {"policy": _ES, "handle": 0}, {}, S.UNSUPPORTED),
    ("es", C.LAUNCH_START, {"policy": _ES, "handle": 0}, {}, S.SUCCESS),
    # Without a session nobody asks for reserved bits or a minimum version.
    ("init", C.LAUNCH_START, {"policy": 0xFFFF_0040, "handle": 0}, {}, S.SUCCESS),
    ("init", C.LAUNCH_START, _START, {"session": b"ignored without an owner's key"}, S.SUCCESS),
    ("init", C.LAUNCH_UPDATE_DATA, {"handle": 9, "paddr": 1, "length": 0}, {}, S.INVALID_PLATFORM_STATE),
    ("measured", C.LAUNCH_UPDATE_DATA, {"handle": 9, "paddr": 1, "length": 0}, {}, S.INVALID_GUEST),
    ("idle", C.LAUNCH_UPDATE_DATA, {"handle": 1, "paddr": 1, "length": 0}, {}, S.INVALID_GUEST_STATE),
    ("running", C.LAUNCH_UPDATE_DATA, _UPDATE, {}, S.INVALID_GUEST_STATE),
    ("started", C.LAUNCH_UPDATE_DATA, {"handle": 1, "paddr": 1, "length": 0}, {}, S.INACTIVE),
    ("active", C.LAUNCH_UPDATE_DATA, {"handle": 1, "paddr": 8, "length": 0}, {}, S.INVALID_ADDRESS),
    ("active", C.LAUNCH_UPDATE_DATA, _UPDATE | {"length": 0}, {}, S.INVALID_LENGTH),
    ("active", C.LAUNCH_UPDATE_DATA, _UPDATE | {"length": 24}, {}, S.INVALID_LENGTH),
    ("active", C.LAUNCH_UPDATE_DATA, _UPDATE | {"paddr": 64 * 1024}, {}, S.INVALID_ADDRESS),
    ("active", C.LAUNCH_UPDATE_DATA, _UPDATE | {"length": 64 * 1024 + 16}, {}, S.INVALID_ADDRESS),
    ("active", C.LAUNCH_UPDATE_DATA, _UPDATE | {"length": 64 * 1024}, {}, S.SUCCESS),
    ("init", C.LAUNCH_UPDATE_VMSA, {"handle": 9, "paddr": 1, "length": 0}, {}, S.INVALID_LENGTH),
    ("init", C.LAUNCH_UPDATE_VMSA, _VMSA | {"handle": 9, "paddr": 1}, {}, S.INVALID_PLATFORM_STATE),
    ("measured", C.LAUNCH_UPDATE_VMSA, _VMSA | {"handle": 9, "paddr": 1}, {}, S.INVALID_GUEST),
    ("idle", C.LAUNCH_UPDATE_VMSA, _VMSA | {"paddr": 1}, {}, S.INVALID_GUEST_STATE),
    ("started", C.LAUNCH_UPDATE_VMSA, _VMSA | {"paddr": 1}, {}, S.UNSUPPORTED),
    ("es-started", C.LAUNCH_UPDATE_VMSA, _VMSA | {"paddr": 1}, {}, S.INACTIVE),
    ("es-active", C.LAUNCH_UPDATE_VMSA, _VMSA | {"paddr": 1 << 40 | 8}, {}, S.INVALID_ADDRESS),
    ("es-active", C.LAUNCH_UPDATE_VMSA, _VMSA | {"paddr": 64 * 1024}, {}, S.INVALID_ADDRESS),
    ("es-active", C.LAUNCH_UPDATE_VMSA, _VMSA, {}, S.SUCCESS),
    ("init", C.LAUNCH_MEASURE, {"handle": 9, "length": 0}, {}, S.INVALID_PLATFORM_STATE),
    ("active", C.LAUNCH_MEASURE, {"handle": 9, "length": 0}, {}, S.INVALID_GUEST),
    ("measured", C.LAUNCH_MEASURE, {"handle": 1, "length": 0}, {}, S.INVALID_GUEST_STATE),
    ("started", C.LAUNCH_MEASURE, {"handle": 1, "length": 0}, {}, S.INVALID_LENGTH),
    ("active", C.LAUNCH_MEASURE, {"handle": 1, "length": 47}, {}, S.INVALID_LENGTH),
    ("started", C.LAUNCH_MEASURE, {"handle": 1, "length": 48}, {}, S.SUCCESS),
    ("init", C.LAUNCH_SECRET, _SECRET | {"handle": 9}, _PACKET, S.INVALID_PLATFORM_STATE),
    ("active", C.LAUNCH_SECRET, _SECRET | {"handle": 9, "paddr": 1}, _PACKET, S.INVALID_GUEST),
    ("active", C.LAUNCH_SECRET, _SECRET | {"paddr": 1, "guest_length": 0}, _PACKET, S.INVALID_ADDRESS),
    ("active", C.LAUNCH_SECRET, _SECRET, _PACKET | {"header": bytes(51)}, S.INVALID_LENGTH),
    ("active", C.LAUNCH_SECRET, _SECRET | {"guest_length": 0}, _PACKET | {"data": b""}, S.INVALID_LENGTH),
    (
        "active",
        C.LAUNCH_SECRET,
        _SECRET | {"guest_length": 8},
        _PACKET | {"data": bytes(8)},
        S.INVALID_LENGTH,
    ),
    ("active", C.LAUNCH_SECRET, _SECRET | {"guest_length": 32}, _PACKET, S.INVALID_LENGTH),
    (
        "active",
        C.LAUNCH_SECRET,
        _SECRET | {"guest_length": 0x4010},
        _PACKET | {"data": bytes(0x4010)},
        S.INVALID_LENGTH,
    ),
    ("started", C.LAUNCH_SECRET, _SECRET, _PACKET, S.INVALID_GUEST_STATE),
    ("running", C.LAUNCH_SECRET, _SECRET, _PACKET, S.INVALID_GUEST_STATE),
    ("idle", C.LAUNCH_SECRET, _SECRET, _PACKET, S.INACTIVE),
    ("measured", C.LAUNCH_SECRET, _SECRET | {"paddr": 1 << 40}, _PACKET, S.INVALID_ADDRESS),
    ("measured", C.LAUNCH_SECRET, _SECRET, _PACKET, S.BAD_MEASUREMENT),
    ("init", C.LAUNCH_FINISH, {"handle": 9}, {}, S.INVALID_PLATFORM_STATE),
    ("active", C.LAUNCH_FINISH, {"handle": 9}, {}, S.INVALID_GUEST),
    ("active", C.LAUNCH_FINISH, {"handle": 1}, {}, S.INVALID_GUEST_STATE),
    ("running", C.LAUNCH_FINISH, {"handle": 1}, {}, S.INVALID_GUEST_STATE),
    ("idle", C.LAUNCH_FINISH, {"handle": 1}, {}, S.SUCCESS),
    ("init", C.ATTESTATION, {"handle": 9, "length": 0}, _NONCE, S.INVALID_PLATFORM_STATE),
    ("active", C.ATTESTATION, {"handle": 9, "length": 0}, _NONCE, S.INVALID_GUEST),
    ("active", C.ATTESTATION, {"handle": 1, "length": 0}, _NONCE, S.INVALID_GUEST_STATE),
    ("measured", C.ATTESTATION, {"handle": 1, "length": 207}, _NONCE, S.INVALID_LENGTH),
    ("measured", C.ATTESTATION, {"handle": 1, "length": 208}, _NONCE, S.SUCCESS),
    ("idle", C.ATTESTATION, {"handle": 1, "length": 208}, _NONCE, S.SUCCESS),
    ("running", C.ATTESTATION, {"handle": 1, "length": 208}, _NONCE, S.SUCCESS),
    ("measured", C.ATTESTATION, {"handle": 1, "length": 208}, {"mnonce": bytes(15)}, S.INVALID_PARAM),
    ("init", C.DBG_DECRYPT, {"handle": 9}, {}, S.INVALID_PLATFORM_STATE),
    ("active", C.DBG_DECRYPT, {"handle": 9}, {}, S.INVALID_GUEST),
    ("es-running", C.DBG_DECRYPT, {"handle": 1}, {}, S.POLICY_FAILURE),
    ("es-running", C.DBG_ENCRYPT, {"handle": 1}, {}, S.POLICY_FAILURE),
    ("running", C.DBG_ENCRYPT, {"handle": 1}, {}, S.UNSUPPORTED),
    # What an address space id or handle of the wrong kind gets.
    ("active", C.LAUNCH_FINISH, {}, {}, S.INVALID_PARAM),
    ("active", C.LAUNCH_FINISH, {"handle": -1}, {}, S.INVALID_PARAM),
    ("measured", C.LAUNCH_SECRET, _SECRET, {"header": bytes(52)}, S.INVALID_PARAM),
]


def arrange(mailbox: Any, situation: str) -> None:
    """Bring a firmware in UNINIT into ``situation``."""
    if situation == "uninit":
        return
    es, situation = situation.startswith("es"), situation.removeprefix("es-")
    mailbox.ok(C.INIT, flags=int(es))
    if situation in ("init", "es"):
        return
    mailbox.start(policy=5 if es else 0, asid=None if situation == "started" else 1)
    if situation in ("measured", "idle", "running"):
        mailbox.ok(C.LAUNCH_MEASURE, handle=1, length=48)
    if situation == "idle":
        mailbox.ok(C.DEACTIVATE, handle=1)
    if situation == "running":
        mailbox.ok(C.LAUNCH_FINISH, handle=1)


@pytest.mark.parametrize(
    ("situation", "command", "values", "parts", "status"),
    CASES,
    ids=[f"{number}-{row[1].name}-{row[0]}-{row[4].name}" for number, row in enumerate(CASES)],
)
def test_states_and_errors_in_spec_order(
    mailbox: Any,
    situation: str,
    command: Command,
    values: dict[str, int],
    parts: dict[str, bytes],
    status: Status,
) -> None:
    arrange(mailbox, situation)
    response = mailbox(command, parts, **values)
    assert Status(response.status) is status, response.message
    if status is not Status.SUCCESS:
        assert status.text in response.message
        assert response.code == status.error_code


def test_every_command_is_in_the_table() -> None:
    assert {row[1] for row in CASES} == set(Command) - {Command.VENDOR_CERTIFICATES}


@pytest.mark.parametrize("command", [0, 0x00B, 0x00D, 0x040, 0x062, 0xFFFF])
def test_unknown_commands_are_refused(ready: Any, command: int) -> None:
    assert ready(command).status == Status.INVALID_COMMAND


def test_lengths_needed_are_written_back(ready: Any) -> None:
    assert ready(C.PDH_CERT_EXPORT, pdh_length=0, chain_length=0).values == {
        "pdh_length": 2084,
        "chain_length": 6252,
    }
    assert ready(C.GET_ID, length=0).values == {"length": 64}
    assert ready(C.PEK_CSR, length=0).values == {"length": 2084}
    ready.start()
    assert ready(C.LAUNCH_MEASURE, handle=1, length=0).values == {"length": 48}
    ready.ok(C.LAUNCH_MEASURE, handle=1, length=48)
    refused = ready(C.ATTESTATION, {"mnonce": bytes(16)}, handle=1, length=0)
    assert refused.values == {"length": 208}


def test_platform_status_follows_the_guests(mailbox: Any) -> None:
    def seen() -> tuple[int, int]:
        values = mailbox.ok(C.PLATFORM_STATUS).values
        assert (values["api_major"], values["api_minor"], values["build"]) == (0, 24, 15)
        assert (values["owned"], values["es"]) == (0, 0)
        return values["state"], values["guest_count"]

    assert seen() == (0, 0)
    mailbox.ok(C.INIT, flags=0)
    assert seen() == (1, 0)
    first, second = mailbox.start(asid=None), mailbox.start(asid=None)
    assert seen() == (2, 2)
    mailbox.ok(C.DECOMMISSION, handle=first)
    assert seen() == (2, 1)
    mailbox.ok(C.DECOMMISSION, handle=second)
    assert seen() == (1, 0)
    mailbox.start()
    mailbox.ok(C.SHUTDOWN)
    assert seen() == (0, 0)


def test_guest_status_reports_policy_asid_and_state(ready: Any) -> None:
    def seen() -> tuple[int, ...]:
        values = ready.ok(C.GUEST_STATUS, handle=1).values
        return values["policy"], values["asid"], values["state"]

    assert seen() == (0, 0, 0)
    ready.start(policy=3, asid=None)
    assert seen() == (3, 0, 1)
    ready.ok(C.ACTIVATE, handle=1, asid=5)
    assert seen() == (3, 5, 1)
    ready.ok(C.LAUNCH_MEASURE, handle=1, length=48)
    assert seen() == (3, 5, 2)
    ready.ok(C.LAUNCH_FINISH, handle=1)
    assert seen() == (3, 5, 3)


def test_handles_are_the_lowest_free_ones_up_to_the_limit(ready: Any) -> None:
    assert [ready.start(asid=None) for _ in range(MAX_GUESTS)] == list(range(1, MAX_GUESTS + 1))
    full = ready(C.LAUNCH_START, policy=0, handle=0)
    assert full.status == Status.RESOURCE_LIMIT
    # A full table is noticed before SEV-ES, and after the policy of a shared key.
    assert ready(C.LAUNCH_START, policy=_ES, handle=0).status == Status.RESOURCE_LIMIT
    assert ready(C.LAUNCH_START, policy=1, handle=1).status == Status.POLICY_FAILURE
    ready.ok(C.DECOMMISSION, handle=17)
    assert ready.start(asid=None) == 17


def test_a_key_marked_noks_is_not_shared(ready: Any) -> None:
    ready.start(policy=2)
    assert ready(C.LAUNCH_START, policy=2, handle=1).status == Status.POLICY_FAILURE


def test_an_address_space_id_is_free_again_after_df_flush(ready: Any) -> None:
    ready.start(asid=3)
    ready.ok(C.DEACTIVATE, handle=1)
    assert ready(C.ACTIVATE, handle=1, asid=3).status == Status.DF_FLUSH_REQUIRED
    ready.ok(C.ACTIVATE, handle=1, asid=4)
    ready.ok(C.DF_FLUSH)
    other = ready.start(asid=3)
    assert ready.ok(C.GUEST_STATUS, handle=other).values["asid"] == 3


def test_the_identity_survives_shutdown_and_not_a_reset(ready: Any) -> None:
    def chain() -> bytes:
        parts = ready.ok(C.PDH_CERT_EXPORT, **_EXPORT).parts
        return bytes(parts["pdh"] + parts["chain"])

    def restart(*commands: Command) -> bytes:
        for command in (C.SHUTDOWN, *commands):
            ready.ok(command)
        ready.ok(C.INIT, flags=0)
        return chain()

    first = chain()
    assert restart() == first
    second = restart(C.PLATFORM_RESET)
    assert second[: 3 * 2084] != first[: 3 * 2084]
    assert second[3 * 2084 :] == first[3 * 2084 :], "the CEK is the chip's and stays"


def test_a_corrupt_store_is_reported_erased_and_then_replaced(mailbox: Any, store: Any) -> None:
    mailbox.ok(C.INIT, flags=0)
    mailbox.ok(C.SHUTDOWN)
    store.data = store.data[:-1] + bytes([store.data[-1] ^ 1])
    refused = mailbox(C.INIT, flags=0)
    assert refused.status == Status.SECURE_DATA_INVALID
    assert refused.remedy
    assert store.data is None
    assert mailbox.ok(C.PLATFORM_STATUS).values["state"] == 0
    mailbox.ok(C.INIT, flags=0)


def test_a_store_that_cannot_be_written_is_a_hardware_error(mailbox: Any, store: Any) -> None:
    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device", "/state/identity")

    store.save = full
    refused = mailbox(C.INIT, flags=0)
    assert refused.status == Status.HWERROR_PLATFORM
    assert "/state/identity: No space left on device" in refused.message
    assert mailbox.ok(C.PLATFORM_STATUS).values["state"] == 0


def test_exported_cek_is_unsigned_and_the_vendors_is_its_signed_twin(ready: Any) -> None:
    exported = ready.ok(C.PDH_CERT_EXPORT, **_EXPORT).parts["chain"][2 * 2084 :]
    signed = ready.ok(C.VENDOR_CERTIFICATES).parts["cek"]
    assert exported[:1044] == signed[:1044]
    assert exported[1044:1052] == bytes.fromhex("0010000000000000")
    assert signed[1044:1052] == bytes.fromhex("1300000001010000")

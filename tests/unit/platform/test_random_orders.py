# SPDX-License-Identifier: Apache-2.0
"""Commands in any order against a second, much simpler account of the states: the two never disagree."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sealpod.platform.model.chip import Chip
from sealpod.platform.model.commands import Command, execute
from sealpod.platform.model.firmware import Firmware
from sealpod.platform.model.identity import make_identity, seal
from sealpod.platform.model.messages import Request
from sealpod.sev.status import Status

C, S = Command, Status
HANDLES = st.integers(0, 4)
ASIDS = st.sampled_from([0, 1, 2, 3, 509, 510])


class _Memory:
    base, size = 0, 4096

    def read(self, gpa: int, size: int) -> bytes:
        return bytes(size)

    def write(self, gpa: int, data: bytes) -> None:
        raise AssertionError("nothing may be written: no packet was ever right")


class _Store:
    def __init__(self, sealed: bytes) -> None:
        self.sealed = sealed

    def load(self) -> bytes:
        return self.sealed

    def save(self, data: bytes) -> None:
        self.sealed = data

    def erase(self) -> None:
        raise AssertionError("PLATFORM_RESET is not among the rules")


class Orders(RuleBasedStateMachine):
    """Bound to a chip and its identity by a subclass: Hypothesis makes instances without arguments."""

    chip: Chip
    sealed: bytes

    def __init__(self) -> None:
        super().__init__()
        self.firmware = Firmware(self.chip, _Store(self.sealed), random.Random(1).randbytes)
        self.on = False
        self.guests: dict[int, list[int]] = {}  # handle -> [state, asid]
        self.dirty: set[int] = set()

    def send(self, command: Command, parts: dict[str, bytes] | None = None, **values: int) -> Any:
        return execute(self.firmware, Request(1, int(command), values, parts or {}), _Memory())

    def expect(self, status: Status, command: Command, **values: Any) -> Any:
        response = self.send(command, values.pop("parts", None), **values)
        assert Status(response.status) is status
        return response

    def guest_error(self, handle: int) -> Status | None:
        if not self.guests:
            return S.INVALID_PLATFORM_STATE
        return None if handle in self.guests else S.INVALID_GUEST

    @rule()
    def init(self) -> None:
        self.expect(S.INVALID_PLATFORM_STATE if self.on else S.SUCCESS, C.INIT, flags=0)
        self.on = True

    @rule()
    def shutdown(self) -> None:
        self.expect(S.SUCCESS, C.SHUTDOWN)
        self.on = False
        self.guests.clear()
        self.dirty.clear()

    @rule()
    def launch_start(self) -> None:
        response = self.expect(
            S.SUCCESS if self.on else S.INVALID_PLATFORM_STATE, C.LAUNCH_START, policy=0, handle=0
        )
        if self.on:
            handle = response.values["handle"]
            assert handle == min(set(range(1, 2000)) - set(self.guests))
            self.guests[handle] = [1, 0]

    @rule(handle=HANDLES, asid=ASIDS)
    def activate(self, handle: int, asid: int) -> None:
        status = self.guest_error(handle)
        if status is None:
            taken = any(guest[1] == asid for guest in self.guests.values())
            checks = (
                (not 1 <= asid <= 509, S.INVALID_ASID),
                (taken, S.ASID_OWNED),
                (bool(self.guests[handle][1]), S.ACTIVE),
                (asid in self.dirty, S.DF_FLUSH_REQUIRED),
            )
            status = next((error for failed, error in checks if failed), S.SUCCESS)
        self.expect(status, C.ACTIVATE, handle=handle, asid=asid)
        if status is S.SUCCESS:
            self.guests[handle][1] = asid

    @rule(handle=HANDLES)
    def deactivate(self, handle: int) -> None:
        status = self.guest_error(handle)
        status = status or (S.SUCCESS if self.guests[handle][1] else S.INACTIVE)
        self.expect(status, C.DEACTIVATE, handle=handle)
        if status is S.SUCCESS:
            self.dirty.add(self.guests[handle][1])
            self.guests[handle][1] = 0

    @rule()
    def df_flush(self) -> None:
        self.expect(S.SUCCESS, C.DF_FLUSH)
        self.dirty.clear()

    @rule(handle=HANDLES)
    def update(self, handle: int) -> None:
        status = self.guest_error(handle)
        if status is None:
            state, asid = self.guests[handle]
            status = S.INVALID_GUEST_STATE if state != 1 else S.SUCCESS if asid else S.INACTIVE
        self.expect(status, C.LAUNCH_UPDATE_DATA, handle=handle, paddr=0, length=4096)

    @rule(handle=HANDLES, length=st.sampled_from([0, 48]))
    def measure(self, handle: int, length: int) -> None:
        status = self.guest_error(handle)
        if status is None:
            right_state = self.guests[handle][0] == 1
            status = S.INVALID_GUEST_STATE if not right_state else S.SUCCESS if length else S.INVALID_LENGTH
        self.expect(status, C.LAUNCH_MEASURE, handle=handle, length=length)
        if status is S.SUCCESS:
            self.guests[handle][0] = 2

    @rule(handle=HANDLES)
    def secret(self, handle: int) -> None:
        status = self.guest_error(handle)
        if status is None:
            state, asid = self.guests[handle]
            wrong = S.BAD_MEASUREMENT if asid else S.INACTIVE
            status = S.INVALID_GUEST_STATE if state != 2 else wrong
        parts = {"header": bytes(52), "data": bytes(16)}
        self.expect(status, C.LAUNCH_SECRET, parts=parts, handle=handle, paddr=0, guest_length=16)

    @rule(handle=HANDLES)
    def finish(self, handle: int) -> None:
        status = self.guest_error(handle)
        status = status or (S.SUCCESS if self.guests[handle][0] == 2 else S.INVALID_GUEST_STATE)
        self.expect(status, C.LAUNCH_FINISH, handle=handle)
        if status is S.SUCCESS:
            self.guests[handle][0] = 3

    @rule(handle=HANDLES)
    def decommission(self, handle: int) -> None:
        status = self.guest_error(handle)
        status = status or (S.ACTIVE if self.guests[handle][1] else S.SUCCESS)
        self.expect(status, C.DECOMMISSION, handle=handle)
        if status is S.SUCCESS:
            del self.guests[handle]

    @invariant()
    def platform_status_agrees(self) -> None:
        values = self.send(C.PLATFORM_STATUS).values
        state = 0 if not self.on else 2 if self.guests else 1
        assert (values["state"], values["guest_count"]) == (state, len(self.guests))

    @invariant()
    def guest_status_agrees(self) -> None:
        if self.on:
            for handle in range(6):
                values = self.send(C.GUEST_STATUS, handle=handle).values
                assert [values["state"], values["asid"]] == self.guests.get(handle, [0, 0])


@pytest.mark.timeout(120)
def test_random_orders(chip: Chip) -> None:
    rng = random.Random("orders").randbytes
    sealed = seal(make_identity(chip, rng), chip, iv=rng(16))
    bound = type("BoundOrders", (Orders,), {"chip": chip, "sealed": sealed})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        bound,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

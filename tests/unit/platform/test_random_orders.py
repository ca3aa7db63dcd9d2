# SPDX-License-Identifier: Apache-2.0
"""Commands in any order against the SEV API's table of them, written down as data: states and errors agree.

A line of ``TABLE`` is a command: its checks in the firmware's order, each with the status that a failure
gets, and what it changes. ``in:IW`` is the platform's state, ``guest:S`` the guest's. What a check looks at
is in ``CHECKS``, what a change does in ``EFFECTS``: a second account of the firmware that shares nothing with
it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sealpod.platform.model.chip import Chip
from sealpod.platform.model.commands import Command, execute
from sealpod.platform.model.firmware import Firmware
from sealpod.platform.model.identity import make_identity, seal
from sealpod.platform.model.messages import Request
from sealpod.secret import SecretBytes
from sealpod.sev.cert import Algorithm, Certificate, Usage, make, sign
from sealpod.sev.packet import pack
from sealpod.sev.session import TransportKeys
from sealpod.sev.status import Status

TABLE = """
INIT               in:U=01 flags=03                                                             > init
SHUTDOWN                                                                                        > shutdown
PLATFORM_RESET     in:U=01                                                                      > reset
PLATFORM_STATUS                                                                                 >
PEK_GEN            in:I=01                                                                      > disown
PEK_CSR            in:IW=01 short:2084=04                                                       >
PEK_CERT_IMPORT    in:I=01 owned=05 certificate-length=04 unsigned=06 foreign=06                > own
PDH_CERT_EXPORT    in:IW=01 short:6252=04                                                       >
PDH_GEN            in:IW=01                                                                     >
DF_FLUSH                                                                                        > flush
GET_ID             short:64=04                                                                  >
DECOMMISSION       in:W=01 handle=10 active=12                                                  > forget
ACTIVATE           in:W=01 handle=10 asid-range=0D asid-taken=0C active=12 asid-dirty=0F        > activate
DEACTIVATE         in:W=01 handle=10 inactive=08                                                > deactivate
GUEST_STATUS       in:IW=01                                                                     >
LAUNCH_START       in:IW=01 shared-handle=10 shared-policy=07 es=15                             > start
LAUNCH_UPDATE_DATA in:W=01 handle=10 guest:L=02 inactive=08 unaligned=09 blocks=04              >
LAUNCH_UPDATE_VMSA page=04 in:W=01 handle=10 guest:L=02 not-es=15 inactive=08 unaligned=09      >
LAUNCH_MEASURE     in:W=01 handle=10 guest:L=02 short:48=04                                     > measure
LAUNCH_SECRET      in:W=01 handle=10 unaligned=09 secret-length=04 guest:S=02 inactive=08 packet=0B>
LAUNCH_FINISH      in:W=01 handle=10 guest:S=02                                                 > finish
ATTESTATION        in:W=01 handle=10 guest:SR=02 short:208=04                                   >
DBG_DECRYPT        in:W=01 handle=10 nodbg=07 unencrypted=15                                    >
DBG_ENCRYPT        in:W=01 handle=10 nodbg=07 unencrypted=15                                    >
"""
"""``unencrypted`` is the model's own: its memory is plain, and there is nothing to decrypt."""

STATES = "ULSR"
NODBG, NOKS, ES = 1, 2, 4
HIGHEST_ASID = 509
CHOICES: dict[str, list[int]] = {
    "flags": [0, 0, 1, 1, 2],
    "handle": [1, 1, 2, 2, 3, 4, 0],
    "asid": [0, 1, 2, 3, 509, 510],
    "policy": [0, NODBG, NOKS, ES, NODBG | ES],
    "paddr": [0, 0, 0, 16, 8],
    "length": [0, 24, 47, 63, 207, 208, 2083, 6252, *[4096] * 6],
    "secret": [0, 8, 16, 16, 16, 0x4010],
    "variant": [0, 0, 1, 2, 3],
}
ARGUMENTS = {name: st.sampled_from(choices) for name, choices in CHOICES.items()}


@dataclass
class Guest:
    policy: int
    state: str = "L"
    asid: int = 0
    measure: bytes = bytes(32)


@dataclass
class Reference:
    """The platform as the table has it."""

    state: str = "U"
    es: bool = False
    owned: bool = False
    guests: dict[int, Guest] = field(default_factory=dict)
    dirty: set[int] = field(default_factory=set)

    @property
    def platform(self) -> str:
        return "W" if self.guests else self.state


Arguments = dict[str, int]
Check = Callable[[Reference, Arguments, str], bool]


def _guest(reference: Reference, arguments: Arguments) -> Guest:
    return reference.guests[arguments["handle"]]


# Each says whether the check fails.
CHECKS: dict[str, Check] = {
    "in": lambda r, _, states: r.platform not in states,
    "flags": lambda _, a, __: a["flags"] not in (0, 1),
    "short": lambda _, a, least: a["length"] < int(least),
    "owned": lambda r, _, __: r.owned,
    "certificate-length": lambda _, a, __: a["variant"] == 1,
    "unsigned": lambda _, a, __: a["variant"] == 2,
    "foreign": lambda _, a, __: a["variant"] == 3,
    "handle": lambda r, a, _: a["handle"] not in r.guests,
    "guest": lambda r, a, states: _guest(r, a).state not in states,
    "active": lambda r, a, _: _guest(r, a).asid != 0,
    "inactive": lambda r, a, _: _guest(r, a).asid == 0,
    "asid-range": lambda _, a, __: not 1 <= a["asid"] <= HIGHEST_ASID,
    "asid-taken": lambda r, a, _: a["asid"] in {guest.asid for guest in r.guests.values()},
    "asid-dirty": lambda r, a, _: a["asid"] in r.dirty,
    "shared-handle": lambda r, a, _: a["handle"] != 0 and a["handle"] not in r.guests,
    "shared-policy": lambda r, a, _: (
        a["handle"] != 0 and (_guest(r, a).policy != a["policy"] or bool(a["policy"] & NOKS))
    ),
    "es": lambda r, a, _: bool(a["policy"] & ES) and not r.es,
    "not-es": lambda r, a, _: not _guest(r, a).policy & ES,
    "unaligned": lambda _, a, __: a["paddr"] % 16 != 0,
    "blocks": lambda _, a, __: a["length"] == 0 or a["length"] % 16 != 0,
    "page": lambda _, a, __: a["length"] != 4096,
    "secret-length": lambda _, a, __: not 0 < a["secret"] <= 0x4000 or a["secret"] % 16 != 0,
    "packet": lambda _, a, __: a["variant"] != 0,
    "nodbg": lambda r, a, _: bool(_guest(r, a).policy & NODBG),
    "unencrypted": lambda *_: True,
}


def _lowest_free(guests: dict[int, Guest]) -> int:
    return next(handle for handle in range(1, 2000) if handle not in guests)


def _init(reference: Reference, arguments: Arguments, _: Any) -> None:
    reference.state, reference.es = "I", bool(arguments["flags"])


def _shutdown(reference: Reference, _: Arguments, __: Any) -> None:
    reference.state, reference.es = "U", False
    reference.guests.clear()
    reference.dirty.clear()


def _start(reference: Reference, arguments: Arguments, answer: Any) -> None:
    handle = _lowest_free(reference.guests)
    assert answer.values == {"handle": handle}
    reference.guests[handle] = Guest(arguments["policy"])


def _deactivate(reference: Reference, arguments: Arguments, _: Any) -> None:
    guest = _guest(reference, arguments)
    reference.dirty.add(guest.asid)
    guest.asid = 0


def _measure(reference: Reference, arguments: Arguments, answer: Any) -> None:
    guest = _guest(reference, arguments)
    guest.state, guest.measure = "S", answer.parts["measurement"][:32]


EFFECTS: dict[str, Callable[[Reference, Arguments, Any], object]] = {
    "": lambda *_: None,
    "init": _init,
    "shutdown": _shutdown,
    "reset": lambda r, *_: setattr(r, "owned", False),
    "disown": lambda r, *_: setattr(r, "owned", False),
    "own": lambda r, *_: setattr(r, "owned", True),
    "flush": lambda r, *_: r.dirty.clear(),
    "forget": lambda r, a, _: r.guests.pop(a["handle"]),
    "activate": lambda r, a, _: setattr(_guest(r, a), "asid", a["asid"]),
    "deactivate": _deactivate,
    "start": _start,
    "measure": _measure,
    "finish": lambda r, a, _: setattr(_guest(r, a), "state", "R"),
}


def _parsed(line: str) -> tuple[Command, tuple[list[tuple[str, str, Status]], str]]:
    words, effect = line.split(">")
    name, *checks = words.split()
    rows = []
    for check in checks:
        what, number = check.split("=")
        kind, _, detail = what.partition(":")
        rows.append((kind, detail, Status(int(number, 16))))
    return Command[name], (rows, effect.strip())


ROWS = dict(_parsed(line) for line in TABLE.strip().splitlines())
WALK = 20_000
OFTEN = [command for command in ROWS for _ in range(1 if command < Command.DECOMMISSION else 3)]
"""Commands about guests more often than those about the platform, which end all of them."""
USUAL = {
    "flags": 1,
    "handle": 0,
    "asid": 0,
    "policy": 0,
    "paddr": 0,
    "length": 4096,
    "secret": 16,
    "variant": 0,
}
NO_KEYS = TransportKeys(tek=SecretBytes(bytes(16)), tik=SecretBytes(bytes(16)))
OWNER = ec.derive_private_key(7, ec.SECP384R1())
STRANGER = ec.derive_private_key(11, ec.SECP384R1())


def test_every_command_of_the_model_is_in_the_table() -> None:
    assert set(ROWS) == set(Command) - {Command.VENDOR_CERTIFICATES}


class _Memory:
    base, size = 0, 64 * 1024

    def read(self, gpa: int, size: int) -> bytes:
        return bytes(size)

    def write(self, gpa: int, data: bytes) -> None:
        assert data == bytes(len(data)), "only a packet that was right is written"


class _Store:
    def __init__(self, sealed: bytes) -> None:
        self.sealed: bytes | None = sealed

    def load(self) -> bytes | None:
        return self.sealed

    def save(self, data: bytes) -> None:
        self.sealed = data

    def erase(self) -> None:
        self.sealed = None


def _signed(certificate: Certificate, key: ec.EllipticCurvePrivateKey = OWNER) -> Certificate:
    return sign(certificate, key, Usage.OCA, Algorithm.ECDSA_SHA256, 0)


OCA = _signed(make(OWNER.public_key(), Usage.OCA, Algorithm.ECDSA_SHA256))


class Orders(RuleBasedStateMachine):
    """Bound to a chip and its identity by a subclass: Hypothesis makes instances without arguments."""

    chip: Chip
    sealed: bytes

    def __init__(self) -> None:
        super().__init__()
        self.firmware = Firmware(self.chip, _Store(self.sealed), random.Random(1).randbytes)
        self.reference = Reference()

    def send(self, command: int, parts: dict[str, bytes] | None = None, **values: int) -> Any:
        return execute(self.firmware, Request(1, int(command), values, parts or {}), _Memory())

    @initialize(
        flags=st.sampled_from([0, 1, 1]),
        guests=st.lists(st.tuples(ARGUMENTS["policy"], st.integers(0, 4)), max_size=4),
    )
    def a_platform_with_guests(self, flags: int, guests: list[tuple[int, int]]) -> None:
        """Chance alone seldom brings a guest far: begin with some, each a number of steps into its launch."""
        self.run(Command.INIT, USUAL | {"flags": flags})
        for policy, steps in guests:
            self.run(Command.LAUNCH_START, USUAL | {"policy": policy})
            for _ in range(steps):
                self.a_step_of_a_launch(len(self.reference.guests) or 1, policy, 1)

    @rule(command=st.sampled_from(OFTEN), data=st.data())
    def any_command(self, command: Command, data: st.DataObject) -> None:
        self.run(command, {name: data.draw(strategy, label=name) for name, strategy in ARGUMENTS.items()})

    @rule(handle=st.integers(1, 4), policy=ARGUMENTS["policy"], variant=ARGUMENTS["variant"])
    def a_step_of_a_launch(self, handle: int, policy: int, variant: int) -> None:
        """What comes next for a guest: chance alone seldom brings one to its end."""
        guest = self.reference.guests.get(handle)
        command = Command.INIT if self.reference.platform == "U" else Command.LAUNCH_START
        if guest is not None:
            further = {"L": Command.LAUNCH_MEASURE, "S": Command.LAUNCH_SECRET, "R": Command.ATTESTATION}
            command = Command.ACTIVATE if not guest.asid else further[guest.state]
        if command is Command.LAUNCH_SECRET and variant:
            command = Command.LAUNCH_FINISH
        starts = command is Command.LAUNCH_START
        own = {"asid": handle, "policy": policy, "handle": 0 if starts else handle}
        self.run(command, USUAL | own)

    def run(self, command: Command, arguments: Arguments) -> Status:
        """Send a command, hold its answer against the table, and follow what it changes."""
        checks, effect = ROWS[command]
        expected = next(
            (status for kind, detail, status in checks if CHECKS[kind](self.reference, arguments, detail)),
            Status.SUCCESS,
        )
        answer = self.send(command, self.parts(command, arguments), **self.values(command, arguments))
        assert Status(answer.status) is expected, (command, arguments, answer.message)
        if expected is Status.SUCCESS:
            EFFECTS[effect](self.reference, arguments, answer)
        return expected

    def values(self, command: Command, arguments: Arguments) -> dict[str, int]:
        if command is Command.PDH_CERT_EXPORT:
            return {"pdh_length": 2084, "chain_length": arguments["length"]}
        if command is Command.LAUNCH_SECRET:
            return arguments | {"guest_length": arguments["secret"]}
        return arguments

    def parts(self, command: Command, arguments: Arguments) -> dict[str, bytes]:
        if command is Command.ATTESTATION:
            return {"mnonce": bytes(16)}
        if command is Command.LAUNCH_SECRET:
            return self.packet(arguments)
        if command is Command.PEK_CERT_IMPORT:
            return self.certificates(arguments["variant"])
        return {}

    def packet(self, arguments: Arguments) -> dict[str, bytes]:
        size = arguments["secret"]
        guest = self.reference.guests.get(arguments["handle"])
        if arguments["variant"] or guest is None or not 0 < size <= 0x4000 or size % 16:
            return {"header": bytes(52), "data": bytes(size)}
        made = pack(NO_KEYS, bytes(size), guest.measure, iv=bytes(16))
        return {"header": made.header, "data": made.data}

    def certificates(self, variant: int) -> dict[str, bytes]:
        """0: this platform's PEK, signed; 1: cut short; 2: not signed; 3: another PEK, signed."""
        request = self.send(Command.PEK_CSR, length=2084)
        if variant == 3 or request.status:
            pek = _signed(make(STRANGER.public_key(), Usage.PEK, Algorithm.ECDSA_SHA256))
        else:
            pek = Certificate.decode(request.parts["pek"])
            pek = pek if variant == 2 else _signed(pek)
        return {"pek": pek.encode()[: 2083 if variant == 1 else 2084], "oca": OCA.encode()}

    @rule(command=st.integers(0, 0xFFFF).filter(lambda number: number not in set(Command)))
    def an_unknown_command(self, command: int) -> None:
        assert self.send(command).status == Status.INVALID_COMMAND

    @invariant()
    def the_platform_is_what_it_says(self) -> None:
        reference = self.reference
        status = self.send(Command.PLATFORM_STATUS).values
        assert "UIW"[status["state"]] == reference.platform
        assert status["guest_count"] == len(reference.guests)
        assert bool(status["es"]) == reference.es
        assert bool(status["owned"]) == (reference.owned and reference.platform != "U")

    @invariant()
    def guests_are_what_they_say(self) -> None:
        if self.reference.platform == "U":
            return
        for handle in range(5):
            values = self.send(Command.GUEST_STATUS, handle=handle).values
            guest = self.reference.guests.get(handle)
            found = (values["policy"], values["asid"], STATES[values["state"]])
            assert found == ((0, 0, "U") if guest is None else (guest.policy, guest.asid, guest.state))


def test_any_order_of_commands(chip: Chip, request: pytest.FixtureRequest) -> None:
    sealed = seal(make_identity(chip, random.Random(2).randbytes), chip, iv=bytes(16))
    bound = type("BoundOrders", (Orders,), {"chip": chip, "sealed": sealed})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        bound,
        settings=settings(
            max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_a_long_walk_meets_every_status_of_the_table(chip: Chip) -> None:
    """The same by plain chance, long enough that no line of the table is left out."""
    sealed = seal(make_identity(chip, random.Random(3).randbytes), chip, iv=bytes(16))
    orders: Orders = type("BoundOrders", (Orders,), {"chip": chip, "sealed": sealed})()
    chance = random.Random(4)
    met = set()
    for _ in range(WALK):
        command = chance.choice(OFTEN)
        arguments = {name: chance.choice(choices) for name, choices in CHOICES.items()}
        met.add((command, orders.run(command, arguments)))
        if chance.random() < 0.3:
            orders.a_step_of_a_launch(
                chance.randint(1, 4), chance.choice(CHOICES["policy"]), chance.randint(0, 1)
            )
        orders.the_platform_is_what_it_says()
    table = {(command, status) for command, (checks, _) in ROWS.items() for *_, status in checks}
    table |= {(command, Status.SUCCESS) for command in ROWS}
    assert table - met == {(Command.DBG_DECRYPT, Status.SUCCESS), (Command.DBG_ENCRYPT, Status.SUCCESS)}

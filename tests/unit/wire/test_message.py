# SPDX-License-Identifier: Apache-2.0
"""The guest's protobuf reader against the protobuf library, over every message of the agent's API."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError as LibraryError
from hypothesis import example, given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.wire import agentapi
from sealpod.wire.message import Message, Schema
from sealpod.wire.pb import agent_pb2, health_pb2, oci_pb2, types_pb2

FILES = (health_pb2.DESCRIPTOR, types_pb2.DESCRIPTOR, oci_pb2.DESCRIPTOR, agent_pb2.DESCRIPTOR)
MODULES = (health_pb2, types_pb2, oci_pb2, agent_pb2)
DESCRIPTORS: dict[str, Descriptor] = {
    name: message for file in FILES for name, message in file.message_types_by_name.items()
}
KINDS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_ENUM: "enum",
}


def new(name: str) -> Any:
    for module in MODULES:
        if hasattr(module, name):
            return getattr(module, name)()
    raise AssertionError(name)


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def kind_of(field: FieldDescriptor) -> str:
    if is_map(field):
        return "map"
    kind = KINDS.get(field.type) or field.message_type.name
    if field.is_repeated:
        return f"*{kind}"
    return f"?{kind}" if field.containing_oneof else kind


def test_the_tables_are_the_protos() -> None:
    assert set(agentapi.MESSAGES.names) == set(DESCRIPTORS)
    for name, descriptor in DESCRIPTORS.items():
        ours = {
            (field.name, field.number, f"{field.label}{field.kind}")
            for field in agentapi.MESSAGES.fields(name).values()
        }
        assert ours == {(field.name, field.number, kind_of(field)) for field in descriptor.fields}, name


def test_the_methods_are_the_protos() -> None:
    declared = {
        (service.full_name, method.name): (method.input_type.name, method.output_type.name)
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert declared == agentapi.METHODS


def fill(message: Any, draw: st.DrawFn, depth: int = 0) -> None:
    """Give some of the library message's fields some values."""
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        if is_map(field):
            getattr(message, field.name).update(
                draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2))
            )
        elif field.message_type is not None:
            targets = (
                [getattr(message, field.name).add() for _ in range(draw(st.integers(0, 2)))]
                if field.is_repeated
                else [getattr(message, field.name)]
            )
            for target in targets:
                if not field.is_repeated:
                    target.SetInParent()
                fill(target, draw, depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(VALUES[field.type], max_size=3)))
        else:
            setattr(message, field.name, draw(VALUES[field.type]))


VALUES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: st.text(max_size=8),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=8),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_UINT32: st.integers(0, (1 << 32) - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, (1 << 64) - 1),
    FieldDescriptor.TYPE_INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_ENUM: st.integers(0, 1),
}


@st.composite
def library_messages(draw: st.DrawFn) -> Any:
    message = new(draw(st.sampled_from(sorted(DESCRIPTORS))))
    fill(message, draw)
    return message


def same(ours: Message, theirs: Any) -> None:
    for field in theirs.DESCRIPTOR.fields:
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if is_map(field):
            assert mine == dict(other)
        elif field.message_type is None:
            assert mine == (list(other) if field.is_repeated else other)
        elif field.is_repeated:
            assert len(mine) == len(other)
            for one, another in zip(mine, other, strict=True):
                same(one, another)
        else:
            assert ours.has(field.name) == theirs.HasField(field.name)
            same(mine, other)


@given(library_messages())
def test_what_the_library_writes_is_read_and_written_alike(theirs: Any) -> None:
    name = theirs.DESCRIPTOR.name
    ours = agentapi.MESSAGES.decode(name, theirs.SerializeToString(deterministic=True))
    same(ours, theirs)
    again = new(name)
    again.ParseFromString(ours.encode())
    assert again == theirs


@given(st.sampled_from(sorted(DESCRIPTORS)), st.binary(max_size=60))
@example("AgentDetails", bytes.fromhex("cd8080801000000000"))  # a field number of 30 bits
@example("AgentDetails", bytes.fromhex("8880808080000a"))  # a field number in six bytes
@example("AgentDetails", bytes.fromhex("0a80808080808000"))  # a length in seven bytes
@example("AgentDetails", bytes.fromhex("0a8080808008"))  # a length of 32 bits
def test_noise_is_a_decode_error_or_what_the_library_reads(name: str, data: bytes) -> None:
    theirs = new(name)
    try:
        ours = agentapi.MESSAGES.decode(name, data)
    except DecodeError:
        return
    # We take nothing the library refuses (the reverse is not wanted: groups are not read here).
    try:
        theirs.ParseFromString(data)
    except LibraryError as exc:
        raise AssertionError(f"{name} {data.hex()} is refused by the library") from exc
    assert isinstance(ours, Message)


@given(library_messages(), st.data())
def test_truncation_never_escapes_as_another_error(theirs: Any, data: st.DataObject) -> None:
    encoded = theirs.SerializeToString()
    cut = data.draw(st.integers(0, len(encoded)))
    try:
        agentapi.MESSAGES.decode(theirs.DESCRIPTOR.name, encoded[:cut])
    except DecodeError:
        return


TABLE = Schema("A n=1:int32 s=2:string b=3:B many=4:*uint32 o=5:?uint32\nB x=1:uint64\n  y=2:bytes\n")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("08", "inside a number"),
        ("08" + "ff" * 10 + "01", "10 bytes"),
        ("1205", "longer than its message"),
        ("0b", "wire type 3"),
        ("0001", "number 0"),
        ("0a0178", "wrong wire type"),
        ("1005", "wrong wire type"),
        ("1801", "wrong wire type"),
        ("1201ff", "not UTF-8"),
        ("0d00", "longer than its message"),
    ],
)
def test_malformed_messages(data: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        TABLE.decode("A", bytes.fromhex(data))


def test_defaults_presence_and_merging() -> None:
    message = TABLE.decode("A", bytes.fromhex("1a0208051a0312016a2800"))
    assert (message.n, message.s, message.many) == (0, "", [])
    assert (message.b.x, message.b.y) == (5, b"j")
    assert message.has("o")
    assert not TABLE.decode("A", b"").has("b")
    assert TABLE.decode("A", b"").b.x == 0


def test_packed_and_unpacked_numbers() -> None:
    assert TABLE.decode("A", bytes.fromhex("2203010203")).many == [1, 2, 3]
    assert TABLE.decode("A", bytes.fromhex("200120022003")).many == [1, 2, 3]


def test_unknown_fields_are_skipped() -> None:
    assert TABLE.decode("A", bytes.fromhex("f80701" + "fa070141" + "0805")).n == 5


def test_names_are_checked() -> None:
    with pytest.raises(AttributeError):
        TABLE.new("A", nonsense=1)
    with pytest.raises(AttributeError):
        _ = TABLE.new("A").nonsense


def test_values_stay_out_of_the_repr() -> None:
    assert repr(TABLE.new("A", s="planted")) == "A(s)"

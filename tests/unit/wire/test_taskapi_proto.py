# SPDX-License-Identifier: Apache-2.0
"""The tables of containerd's messages against protos written apart from them and compiled here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from grpc_tools import protoc
from hypothesis import given
from hypothesis import strategies as st

from sealpod.errors import DecodeError
from sealpod.shim import metrics
from sealpod.wire import taskapi
from sealpod.wire.message import Message, Schema

HERE = Path(__file__).parent
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
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=8),
    "bytes": st.binary(max_size=8),
    "bool": st.booleans(),
    "uint32": st.integers(0, (1 << 32) - 1),
    "uint64": st.integers(0, (1 << 64) - 1),
    "int32": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64": st.integers(-(1 << 63), (1 << 63) - 1),
    "enum": st.integers(0, 5),
}


def compile_proto(name: str, directory: Path) -> tuple[Any, descriptor_pool.DescriptorPool]:
    target = directory / f"{name}.set"
    assert protoc.main(["protoc", f"-I{HERE}", f"--descriptor_set_out={target}", f"{name}.proto"]) == 0
    pool = descriptor_pool.DescriptorPool()
    [file] = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file
    return pool.AddSerializedFile(file.SerializeToString()), pool


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    directory = tmp_path_factory.mktemp("protos")
    compiled = {
        name: compile_proto(name, directory)[1].FindFileByName(f"{name}.proto")
        for name in ("taskapi", "cgroups_v1", "cgroups_v2")
    }
    return compiled.__getitem__


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def kind_of(field: FieldDescriptor) -> str:
    if is_map(field):
        return "map"
    kind = KINDS.get(field.type) or field.message_type.name
    return f"*{kind}" if field.is_repeated else kind


def test_the_table_is_the_proto(protos: Callable[[str], Any]) -> None:
    file = protos("taskapi")
    assert set(taskapi.MESSAGES.names) == set(file.message_types_by_name)
    for name, descriptor in file.message_types_by_name.items():
        ours = {
            (field.name, field.number, f"{field.label}{field.kind}")
            for field in taskapi.MESSAGES.fields(name).values()
        }
        assert ours == {(field.name, field.number, kind_of(field)) for field in descriptor.fields}, name


def test_the_methods_are_the_protos(protos: Callable[[str], Any]) -> None:
    service = protos("taskapi").services_by_name["Task"]
    assert {
        method.name: (method.input_type.name, method.output_type.name) for method in service.methods
    } == taskapi.METHODS


def test_the_states_are_the_protos(protos: Callable[[str], Any]) -> None:
    numbers = {value.name: value.number for value in protos("taskapi").enum_types_by_name["Status"].values}
    for name in ("CREATED", "RUNNING", "STOPPED", "PAUSED"):
        assert getattr(taskapi, name) == numbers[name]


def within(schema: Schema, name: str, descriptor: Descriptor) -> None:
    """Every field of the table is one of the proto, whatever the table calls its messages."""
    theirs = {field.name: field for field in descriptor.fields}
    for field in schema.fields(name).values():
        other = theirs[field.name]
        assert field.number == other.number, (name, field.name)
        if field.is_message:
            within(schema, field.kind, other.message_type)
        else:
            assert f"{field.label}{field.kind}" == kind_of(other), (name, field.name)


def test_the_metrics_are_part_of_the_protos(protos: Callable[[str], Any]) -> None:
    for schema, proto, full_name in (
        (metrics.V1, "cgroups_v1", taskapi.METRICS_V1),
        (metrics.V2, "cgroups_v2", taskapi.METRICS_V2),
    ):
        descriptor = protos(proto).message_types_by_name["Metrics"]
        assert descriptor.full_name == full_name
        within(schema, "Metrics", descriptor)


def fill(message: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    """Give some of the library message's fields some values."""
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        kind = kind_of(field)
        if kind == "map":
            getattr(message, field.name).update(
                draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4)))
            )
        elif kind == "*string":
            getattr(message, field.name).extend(draw(st.lists(st.text(max_size=8), max_size=3)))
        elif field.message_type is None:
            setattr(message, field.name, draw(VALUES[kind]))
        elif field.is_repeated:
            for _ in range(draw(st.integers(0, 2))):
                fill(getattr(message, field.name).add(), draw)
        else:
            getattr(message, field.name).SetInParent()
            fill(getattr(message, field.name), draw)


@given(data=st.data())
def test_what_the_library_writes_is_read_and_written_alike(
    protos: Callable[[str], Any], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(taskapi.MESSAGES.names)))
    kind = message_factory.GetMessageClass(protos("taskapi").message_types_by_name[name])
    theirs = kind()
    fill(theirs, data.draw)
    ours = taskapi.MESSAGES.decode(name, theirs.SerializeToString())
    assert kind.FromString(ours.encode()) == theirs


@given(st.sampled_from(sorted(taskapi.MESSAGES.names)), st.binary(max_size=60))
def test_noise_is_a_message_or_a_decode_error(name: str, data: bytes) -> None:
    try:
        message = taskapi.MESSAGES.decode(name, data)
    except DecodeError:
        return
    assert isinstance(message, Message)

# SPDX-License-Identifier: Apache-2.0
"""gRPC's own services beside the key broker's: health by name, and reflection that tells the interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from brokerkit import channel
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sealpod.kbs.server import ServerConfig, serve

BROKER = "keybroker.KeyBrokerService"
HEALTH = "grpc.health.v1.Health"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("kbs") / "kbs.db"
    with serve(ServerConfig("127.0.0.1:0", f"sqlite:///{path}")) as broker:
        yield broker.address


def ask(address: str, **question: Any) -> Any:
    with channel(address) as link:
        stub = reflection_pb2_grpc.ServerReflectionStub(link)
        request = reflection_pb2.ServerReflectionRequest(**question)
        return next(stub.ServerReflectionInfo(iter([request]), timeout=10))


def test_the_services_are_listed(address: str) -> None:
    found = {one.name for one in ask(address, list_services="").list_services_response.service}
    assert found == {BROKER, HEALTH, "grpc.reflection.v1alpha.ServerReflection"}


def test_the_interface_is_told(address: str) -> None:
    answer = ask(address, file_containing_symbol=BROKER).file_descriptor_response
    file = FileDescriptorProto.FromString(answer.file_descriptor_proto[0])
    assert file.package == "keybroker"
    (service,) = file.service
    # On the wire and to who asks, the calls are unary.
    assert {one.name: (one.client_streaming, one.server_streaming) for one in service.method} == {
        "GetBundle": (False, False),
        "GetSecret": (False, False),
        "GetOnlineSecret": (False, False),
    }


def test_reflection_can_be_left_out(tmp_path: Path) -> None:
    with serve(ServerConfig("127.0.0.1:0", f"sqlite:///{tmp_path / 'kbs.db'}", reflection=False)) as broker:
        with pytest.raises(grpc.RpcError) as caught:
            ask(broker.address, list_services="")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("name", ["", BROKER])
def test_health_by_name(address: str, name: str) -> None:
    with channel(address) as link:
        stub = health_pb2_grpc.HealthStub(link)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_a_service_nobody_knows(address: str) -> None:
    with channel(address) as link, pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(link).Check(health_pb2.HealthCheckRequest(service="x"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_method_nobody_knows(address: str) -> None:
    with channel(address) as link, pytest.raises(grpc.RpcError) as caught:
        link.unary_unary(f"/{BROKER}/GetEverything")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

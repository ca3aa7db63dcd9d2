# SPDX-License-Identifier: Apache-2.0
"""The gRPC listener: key broker, health and reflection on one port, with gRPC's own limits.

gRPC's core closes what is half-open, silent, idle or old; :mod:`sealpod.kbs.server.service` limits calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sealpod.errors import UnavailableError
from sealpod.kbs.server.calls import METHODS, SERVICE
from sealpod.kbs.server.config import ConnectionLimits, split_listen
from sealpod.kbs.server.readiness import HealthReporter
from sealpod.kbs.server.service import Service
from sealpod.kbs.server.tls import Credentials

MAX_MESSAGE: Final = 256 * 1024
"""Bytes of a request. The largest real part is a chain, 15 KiB of base64."""
MAX_METADATA: Final = 8 * 1024
"""Bytes of a call's headers."""
MIN_PING: Final = 10.0
"""Seconds between a client's pings; one that asks more often is sent away."""

SERVICES: Final = (SERVICE, health.SERVICE_NAME)


class GrpcListener:
    """Made and used in the event loop."""

    def __init__(
        self,
        listen: str,
        service: Service,
        reporter: HealthReporter,
        limits: ConnectionLimits,
        *,
        credentials: Credentials | None = None,
        with_reflection: bool = True,
        methods: Collection[str] = METHODS,
    ) -> None:
        """:raise UsageError: not an address. :raise UnavailableError: it is taken."""
        host, port = split_listen(listen)
        self._service = service
        self._server = grpc.aio.server(options=_options(limits))
        self._server.add_generic_rpc_handlers((service.handlers(methods),))
        health_pb2_grpc.add_HealthServicer_to_server(reporter.servicer, self._server)
        if with_reflection:
            reflection.enable_server_reflection((*SERVICES, reflection.SERVICE_NAME), self._server)
        self.address = f"{host}:{self._bind(host, port, credentials)}"

    def _bind(self, host: str, port: int, credentials: Credentials | None) -> int:
        address = f"{host}:{port}"
        try:
            if credentials is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, credentials.for_grpc())
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise UnavailableError(
                f"cannot listen on {address}",
                code="kbs.listen",
                remedy="check that the address is this machine's and the port is free",
            )
        return int(bound)

    async def start(self) -> None:
        """Answer calls."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Refuse new calls, let those in progress end within ``grace`` seconds.

        Who watches the health service would do so for ever: that is not waited for.
        """
        ending = asyncio.create_task(self._server.stop(grace))
        idle = asyncio.create_task(self._service.until_idle())
        await asyncio.wait({ending, idle}, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        await self._server.stop(None)
        await ending


def _options(limits: ConnectionLimits) -> tuple[tuple[str, int], ...]:
    return (
        # Two brokers on one port would hide each other's mistakes; replicas have addresses of their own.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.max_metadata_size", MAX_METADATA),
        ("grpc.absolute_max_metadata_size", MAX_METADATA),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.server_handshake_timeout_ms", _ms(limits.handshake)),
        ("grpc.keepalive_time_ms", _ms(limits.keepalive)),
        ("grpc.keepalive_timeout_ms", _ms(limits.keepalive_answer)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _ms(MIN_PING)),
        ("grpc.max_connection_idle_ms", _ms(limits.idle)),
        ("grpc.max_connection_age_ms", _ms(limits.age)),
        ("grpc.max_connection_age_grace_ms", _ms(limits.age_grace)),
    )


def _ms(seconds: float) -> int:
    return int(seconds * 1000)

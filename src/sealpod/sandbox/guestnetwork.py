# SPDX-License-Identifier: Apache-2.0
"""Tell a guest's agent the network CNI made for its pod."""

from __future__ import annotations

from typing import Final

from sealpod.sandbox.agent import AgentClient
from sealpod.sandbox.netns import PodNetwork
from sealpod.wire.pb import agent_pb2, types_pb2

NUD_PERMANENT: Final = 0x80  # linux/neighbour.h


async def configure(agent: AgentClient, network: PodNetwork) -> None:
    """Interfaces, then routes, then permanent neighbours."""
    for interface in network.interfaces:
        message = types_pb2.Interface(
            device=interface.name,
            name=interface.name,
            hwAddr=interface.mac,
            mtu=interface.mtu,
            IPAddresses=[
                types_pb2.IPAddress(family=_family(address), address=address, mask=str(prefix))
                for address, prefix in interface.addresses
            ],
        )
        await agent.call("UpdateInterface", agent_pb2.UpdateInterfaceRequest(interface=message))
    if network.routes:
        routes = [
            types_pb2.Route(
                dest=route.destination,
                gateway=route.gateway,
                device=route.interface,
                source=route.source,
                scope=route.scope,
                family=types_pb2.v6 if route.ipv6 else types_pb2.v4,
            )
            for route in network.routes
        ]
        await agent.call(
            "UpdateRoutes", agent_pb2.UpdateRoutesRequest(routes=agent_pb2.Routes(Routes=routes))
        )
    if network.neighbours:
        neighbours = [
            types_pb2.ARPNeighbor(
                toIPAddress=types_pb2.IPAddress(family=_family(one.address), address=one.address),
                device=one.interface,
                lladdr=one.mac,
                state=NUD_PERMANENT,
            )
            for one in network.neighbours
        ]
        await agent.call(
            "AddARPNeighbors",
            agent_pb2.AddARPNeighborsRequest(neighbors=agent_pb2.ARPNeighbors(ARPNeighbors=neighbours)),
        )


def _family(address: str) -> types_pb2.IPFamily:
    return types_pb2.v6 if ":" in address else types_pb2.v4

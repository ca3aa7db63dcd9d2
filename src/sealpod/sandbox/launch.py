# SPDX-License-Identifier: Apache-2.0
"""Launch one guest: the numbered flow of the design, the same for silicon and model.

1. the broker gets the platform's certificates and gives a session for it;
2. the platform starts a launch with that session;
3. QEMU starts paused;
4. the platform measures what is in the guest;
5. the broker gets the measurement and, if its policy allows, gives the secret, readable by the firmware only;
6. the platform puts the secret into the guest, and the guest runs;
7. the agent answers.

Without a broker (``kbc none``) steps 1 and 5 are left out: the guest is measured, but nobody checks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sealpod.errors import UsageError
from sealpod.platform.port import Launch, LaunchSpec, Measured
from sealpod.qemu.arguments import MachineSpec
from sealpod.qemu.machine import Machine, start_machine
from sealpod.sandbox.agent import AgentClient
from sealpod.sandbox.boot import wait_for_agent
from sealpod.sandbox.broker import Broker, Bundle, Evidence, connect
from sealpod.sandbox.channel import Channel
from sealpod.sandbox.host import Host
from sealpod.sandbox.inputs import LaunchInputs, read_inputs
from sealpod.sandbox.spec import LaunchRecord, PodSpec
from sealpod.sandbox.timeline import Observation, Timeline


@dataclass(frozen=True, slots=True)
class Guest:
    """A running guest whose agent answers."""

    name: str
    machine: Machine
    agent: AgentClient


@contextlib.asynccontextmanager
async def launch_guest(host: Host, spec: PodSpec, seen: Observation) -> AsyncIterator[Guest]:
    """A running guest for the length of the block; everything of it is gone afterwards."""
    if spec.kbc != "none" and not spec.kbs:
        raise UsageError(f"--kbc {spec.kbc} needs a key broker", remedy="give --kbs HOST:PORT")
    phase = seen.timeline.phase
    name = f"sandbox-{secrets.token_hex(6)}"
    async with contextlib.AsyncExitStack() as scope:
        with phase("inputs"):
            inputs = await read_inputs(spec)
            seen.record = LaunchRecord(
                inputs.components, host.platform.kind, spec.memory, spec.cpus, host.accelerator
            )
        broker, bundle = None, None
        if spec.kbc != "none":
            with phase("bundle"):  # (1)
                broker = await scope.enter_async_context(connect(spec.kbs))
                bundle = await broker.get_bundle(await host.platform.certificate_chain(), spec.policy)
                seen.launch_id = bundle.launch_id
        with phase("start"):  # (2), (3)
            launch = await host.platform.launch(launch_spec(spec, inputs, bundle))
            scope.push_async_callback(launch.close)
            machine = await scope.enter_async_context(
                start_machine(host.qemu, machine_spec(name, host, spec, inputs, launch))
            )
            scope.callback(lambda: setattr(seen, "console", machine.console.tail()))
        with phase("measure"):  # (4)
            measured = await launch.measure(machine)
        if broker is not None and bundle is not None:
            await _attest(broker, bundle, measured, spec, inputs, launch, machine, seen.timeline)  # (5)
        agent = await _boot(machine, launch, scope, seen.timeline)  # (6), (7)
        yield Guest(name, machine, agent)


def launch_spec(spec: PodSpec, inputs: LaunchInputs, bundle: Bundle | None) -> LaunchSpec:
    """What the platform is told of a pod."""
    return LaunchSpec(
        policy=spec.policy,
        godh=bundle.godh if bundle else None,
        session=bundle.session if bundle else None,
        hashes=inputs.hashes,
        hashes_gpa=inputs.hash_area.base,
        secret_gpa=inputs.secret_area.base,
        firmware_size=inputs.firmware_size,
    )


def machine_spec(name: str, host: Host, spec: PodSpec, inputs: LaunchInputs, launch: Launch) -> MachineSpec:
    """What QEMU is told of a pod."""
    return MachineSpec(
        name=name,
        firmware=spec.files.firmware,
        kernel=spec.files.kernel,
        initrd=spec.files.initrd,
        cmdline=inputs.cmdline,
        memory=spec.memory,
        cpus=spec.cpus,
        accelerator=host.accelerator,
        extra=launch.qemu_arguments(),
    )


async def _attest(
    broker: Broker,
    bundle: Bundle,
    measured: Measured,
    spec: PodSpec,
    inputs: LaunchInputs,
    launch: Launch,
    machine: Machine,
    timeline: Timeline,
) -> None:
    if spec.kbc == "none":
        return
    with timeline.phase("attest"):
        evidence = Evidence(
            measured.measurement, measured.version, spec.policy, bytes.fromhex(inputs.components.digest)
        )
        packet = await broker.get_secret(bundle.launch_id, evidence, spec.kbc, spec.keyset)
    with timeline.phase("inject"):
        await launch.inject(machine, packet)


async def _boot(
    machine: Machine, launch: Launch, scope: contextlib.AsyncExitStack, timeline: Timeline
) -> AgentClient:
    with timeline.phase("boot"):
        await launch.finish(machine)
        if machine.agent is None:
            raise machine.failure("QEMU has no agent channel")
        channel = Channel(machine.agent, "the guest's agent")
        scope.push_async_callback(channel.close)
        agent = AgentClient(channel)
        await machine.resume()
        await wait_for_agent(machine, agent)
    return agent


async def power_off(guest: Guest, seconds: float) -> None:
    """Ask the guest to end and wait a moment for it; the scope ends it in any case."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(seconds):
            await guest.agent.destroy_sandbox()
            await guest.machine.wait()

# SPDX-License-Identifier: Apache-2.0
"""Launch one guest: the numbered flow of the design, the same for silicon and model, command and pod.

1. the broker gets the platform's certificates and gives a session for it;
2. the platform starts a launch with that session;
3. QEMU starts paused;
4. the platform measures what is in the guest;
5. the broker gets the measurement and, if its policy allows, gives the secret, readable by the firmware only;
6. the platform puts the secret into the guest, and the guest runs;
7. the agent answers.

Without a broker (``kbc none``) steps 1 and 5 are left out: the guest is measured, but nobody checks it. A
plain virtual machine has steps 3 and 7 alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from sealpod.errors import LaunchError, OperationError, UsageError
from sealpod.platform.port import Launch, LaunchSpec, Measured, Platform, QemuNeeds
from sealpod.qemu.arguments import MachineSpec
from sealpod.qemu.machine import Machine, start_machine
from sealpod.qemu.vcpu import vcpu_signature
from sealpod.sandbox.agent import AgentClient
from sealpod.sandbox.boot import wait_for_agent
from sealpod.sandbox.broker import Broker
from sealpod.sandbox.channel import Channel
from sealpod.sandbox.evidence import Bundle, Evidence
from sealpod.sandbox.host import Host
from sealpod.sandbox.inputs import LaunchInputs, command_line, read_inputs, require_files
from sealpod.sandbox.spec import LaunchRecord, PodSpec
from sealpod.sandbox.timeline import Observation, Timeline


@dataclass(frozen=True, slots=True)
class Guest:
    """A running guest whose agent answers."""

    name: str
    machine: Machine
    agent: AgentClient


@contextlib.asynccontextmanager
async def launch_guest(
    host: Host,
    spec: PodSpec,
    seen: Observation,
    *,
    name: str = "",
    started: Callable[[Machine], Awaitable[None]] | None = None,
) -> AsyncIterator[Guest]:
    """A running guest for the length of the block; everything of it is gone afterwards.

    ``started`` is awaited with the machine as soon as there is one, before its guest runs.
    """
    name = name or f"sandbox-{secrets.token_hex(6)}"
    async with contextlib.AsyncExitStack() as scope:

        async def start(machine_spec: MachineSpec) -> Machine:
            machine = await scope.enter_async_context(start_machine(host.qemu, machine_spec))
            scope.callback(lambda: setattr(seen, "console", machine.console.words()))
            if started is not None:
                await started(machine)
            return machine

        if host.platform is None or not spec.measured:
            machine = await _launch_plain(host, spec, seen, name, start)
        else:
            machine = await _launch_measured(host, host.platform, spec, seen, name, start, scope)
        with seen.timeline.phase("boot"):  # (7)
            agent = await _boot(machine, spec.dial_seconds, scope)
        yield Guest(name, machine, agent)


_Start = Callable[[MachineSpec], Awaitable[Machine]]


async def _launch_plain(host: Host, spec: PodSpec, seen: Observation, name: str, start: _Start) -> Machine:
    if spec.measured or spec.kbc != "none":
        raise UsageError("a plain virtual machine cannot be attested", code="launch.plain")
    with seen.timeline.phase("inputs"):
        require_files(spec)
    with seen.timeline.phase("start"):
        return await start(_machine_spec(name, host, spec, command_line(spec), QemuNeeds()))


async def _launch_measured(
    host: Host,
    platform: Platform,
    spec: PodSpec,
    seen: Observation,
    name: str,
    start: _Start,
    scope: contextlib.AsyncExitStack,
) -> Machine:
    if spec.kbc != "none" and not spec.kbs:
        raise UsageError(f"--kbc {spec.kbc} needs a key broker", remedy="give --kbs HOST:PORT")
    phase = seen.timeline.phase
    with phase("inputs"):
        inputs = await read_inputs(spec, lambda: vcpu_signature(host.accelerator))
        seen.record = LaunchRecord(inputs.components, platform.kind, spec.memory, spec.cpus, host.accelerator)
    broker, bundle = None, None
    if spec.kbc != "none":
        with phase("bundle"):  # (1)
            broker = Broker(spec.kbs, spec.kbs_tls)
            bundle = await broker.get_bundle(await platform.certificate_chain(), spec.policy)
            seen.launch_id = bundle.launch_id
    with phase("start"):  # (2), (3)
        launch = await platform.launch(launch_spec(spec, inputs, bundle))
        scope.push_async_callback(launch.close)
        machine = await _start_machine(start, machine_spec(name, host, spec, inputs, launch), launch)
    with phase("measure"):  # (4)
        measured = await launch.measure(machine)
    if broker is not None and bundle is not None:
        await _attest(broker, bundle, measured, spec, inputs, launch, machine, seen.timeline)  # (5), (6)
    await launch.finish(machine)
    return machine


def launch_spec(spec: PodSpec, inputs: LaunchInputs, bundle: Bundle | None) -> LaunchSpec:
    """What the platform is told of a pod."""
    return LaunchSpec(
        policy=spec.policy,
        godh=bundle.godh if bundle else None,
        session=bundle.session if bundle else None,
        hashes=inputs.hashes,
        hashes_gpa=inputs.hash_area.base,
        secret_gpa=inputs.secret_area.base,
        secret_size=inputs.secret_area.size,
        firmware_size=inputs.firmware_size,
    )


def machine_spec(name: str, host: Host, spec: PodSpec, inputs: LaunchInputs, launch: Launch) -> MachineSpec:
    """What QEMU is told of a measured pod."""
    needs = launch.needs(host.qemu.version)
    if needs.accelerator not in ("", host.accelerator):
        raise OperationError(
            f"this platform's guests need {needs.accelerator}, and only {host.accelerator} works here",
            code="platform.accelerator",
            remedy="check that /dev/kvm works for this user, or use --platform model",
        )
    return _machine_spec(name, host, spec, inputs.cmdline, needs)


async def _start_machine(start: _Start, spec: MachineSpec, launch: Launch) -> Machine:
    try:
        return await start(spec)
    except LaunchError as error:
        raise launch.explain(error) from error


def _machine_spec(name: str, host: Host, spec: PodSpec, cmdline: str, needs: QemuNeeds) -> MachineSpec:
    return MachineSpec(
        name=name,
        firmware=spec.files.firmware,
        kernel=spec.files.kernel,
        initrd=spec.files.initrd,
        cmdline=cmdline,
        memory=spec.memory,
        cpus=spec.cpus,
        accelerator=host.accelerator,
        nics=spec.nics,
        netns=spec.netns,
        cgroup=spec.cgroup,
        vsock=spec.vsock,
        machine=needs.machine,
        confidential=needs.confidential,
        hidden_registers=needs.hidden_registers,
        extra=needs.arguments,
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


async def _boot(machine: Machine, seconds: float, scope: contextlib.AsyncExitStack) -> AgentClient:
    async def answer() -> AgentClient:
        channel = Channel(await machine.dial(), "the guest's agent")
        scope.push_async_callback(channel.close)
        agent = AgentClient(channel)
        await agent.check()
        return agent

    await machine.resume()
    return await wait_for_agent(machine, answer(), seconds)


async def power_off(guest: Guest, seconds: float) -> None:
    """Ask the guest to end and wait a moment for it; the scope ends it in any case."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(seconds):
            await guest.agent.destroy_sandbox()
            await guest.machine.wait()

# SPDX-License-Identifier: Apache-2.0
"""One attested guest with the online key broker client, and everything that can go wrong with an image in it.

The calls are those of `sealpod run`; sharing a guest saves a boot for each. How such an error ends on the
command line is shown in test_faults.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
from labkit import MEMORY, Lab, hosted

from sealpod.errors import SealpodError
from sealpod.guestimage.cache import cache_directory
from sealpod.sandbox.agent import AgentClient
from sealpod.sandbox.host import HostOptions, open_host
from sealpod.sandbox.launch import launch_guest
from sealpod.sandbox.network import NAMESERVER, from_guest
from sealpod.sandbox.spec import PodSpec
from sealpod.sandbox.timeline import Observation, Timeline
from sealpod.sev.policy import Policy

pytestmark = pytest.mark.e2e
Call = Callable[[Coroutine[Any, Any, Any]], Any]


@contextlib.asynccontextmanager
async def launched(lab: Lab) -> AsyncIterator[AgentClient]:
    """The agent of a running guest that `sealpod run --kbc online` would have launched."""
    spec = PodSpec(
        files=lab.files,
        policy=Policy(3),
        kbc="online",
        kbs=lab.broker,
        memory=int(MEMORY),
        insecure_registries=(from_guest(lab.registry),),
    )
    options = HostOptions(cache_directory(), platform_state=lab.state, accelerator=lab.accelerator)
    async with (
        open_host(options, lambda _note: None) as host,
        launch_guest(host, spec, Observation(Timeline())) as guest,
    ):
        await guest.agent.configure_network()
        await guest.agent.create_sandbox(guest.name, "sealpod", [f"nameserver {NAMESERVER}"])
        yield guest.agent


@pytest.fixture(scope="module")
def agent(lab: Lab, runner: asyncio.Runner) -> Iterator[AgentClient]:
    with lab.place.unchanged(), hosted(runner, launched(lab)) as made:
        yield made


@pytest.fixture
def call(runner: asyncio.Runner) -> Call:
    return runner.run


@pytest.fixture
def new_id() -> Iterator[str]:
    return map("c{}".format, _numbers)


_numbers = itertools.count()


@pytest.mark.parametrize(
    ("tag", "status", "code"),
    [
        ("nothing", 4, "image.not-found"),
        # The broker knows no such key.
        ("nobody", 3, "secret.unknown"),
        # The broker has another key under this id.
        ("wrong", 3, "image.wrong-key"),
    ],
)
def test_an_image_that_cannot_be_had(
    lab: Lab, agent: AgentClient, call: Call, new_id: Iterator[str], tag: str, status: int, code: str
) -> None:
    image = lab.image(tag).replace(lab.registry, from_guest(lab.registry))
    with pytest.raises(SealpodError) as caught:
        call(agent.create_container(next(new_id), image, ()))
    assert (caught.value.exit_status, caught.value.code) == (status, code)
    assert caught.value.message
    assert caught.value.remedy
    assert "\n" not in caught.value.one_line()


async def _output(agent: AgentClient, container: str) -> bytes:
    return b"".join([data async for data in agent.output(container, "ReadStdout")])


def test_the_guest_still_runs_what_it_may(
    lab: Lab, agent: AgentClient, call: Call, new_id: Iterator[str]
) -> None:
    container = next(new_id)
    image = lab.image("encrypted").replace(lab.registry, from_guest(lab.registry))
    call(agent.create_container(container, image, ()))
    call(agent.start_container(container))
    assert call(_output(agent, container)) == b"only the guest may read this\n"
    assert call(agent.wait_process(container)) == 0


@pytest.mark.parametrize(
    ("script", "number", "status"),
    [
        ("echo ready; sleep 1000", signal.SIGKILL, 137),
        ("trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done", signal.SIGTERM, 5),
        # The first process of a pid namespace would ignore it.
        ("echo ready; exec sleep 1000", signal.SIGTERM, 137),
    ],
    ids=["kill", "handled", "unhandled"],
)
def test_a_signalled_container(
    lab: Lab, agent: AgentClient, call: Call, new_id: Iterator[str], script: str, number: int, status: int
) -> None:
    container = next(new_id)
    image = lab.image("plain").replace(lab.registry, from_guest(lab.registry))
    call(agent.create_container(container, image, ("sh", "-c", script)))
    call(agent.start_container(container))

    async def ready() -> bytes:
        return await anext(agent.output(container, "ReadStdout"))

    assert call(ready()) == b"ready\n"
    call(agent.signal_process(container, number))
    assert call(agent.wait_process(container)) == status

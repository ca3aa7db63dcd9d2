# SPDX-License-Identifier: Apache-2.0
"""The five scenarios, and what each must show.

========  =====================================================================================
plain     an unencrypted image, no broker: the guest runs it, nobody attested anything
offline   an encrypted image; the key is injected into the guest after attestation
online    an encrypted image; the attested guest asks the broker for the key itself
tampered  as offline, but one byte of the command line differs from the policy's reference: refused
stranger  as offline, but on a platform whose root the broker does not trust: refused
========  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sealpod.demo.report import Result
from sealpod.demo.stage import Stage
from sealpod.errors import SealpodError
from sealpod.measure.components import Components
from sealpod.measure.explain import explain
from sealpod.sandbox.host import Host
from sealpod.sandbox.pod import run_pod
from sealpod.sandbox.timeline import Observation, Timeline

MAXIMUM_OUTPUT: Final = 65536  # bytes of a container's output that are kept


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. ``expected_error`` is empty when the container must run and print the message."""

    name: str
    expected_error: str = ""
    reference: str = ""
    """The scenario whose reference the guest owner compares the launch with."""
    stranger: bool = False
    """Launch on the platform the broker does not trust."""


SCENARIOS: Final = (
    Scenario("plain"),
    Scenario("offline"),
    Scenario("online"),
    Scenario("tampered", expected_error="fw digest not valid", reference="offline"),
    Scenario("stranger", expected_error="[chain.untrusted-root]", stranger=True),
)


async def play(
    scenario: Scenario, stage: Stage, host: Host, message: str, on_phase: Callable[[str], None]
) -> Result:
    """Run a scenario and judge it."""
    seen = Observation(Timeline(on_start=on_phase))
    output = bytearray()

    def keep(data: bytes) -> None:
        output.extend(data[: MAXIMUM_OUTPUT - len(output)])

    failure: SealpodError | None = None
    status = 0
    try:
        spec, image = stage.specs[scenario.name], stage.inside(scenario.name)
        status = await run_pod(host, spec, image, (), seen, stdout=keep, stderr=keep)
    except SealpodError as error:
        failure = error
    printed = output.decode(errors="replace").strip()
    expected = _judge(scenario, failure, status, printed, message)
    error_text = failure.one_line() if failure else (f"the container exited with {status}" if status else "")
    return Result(
        name=scenario.name,
        outcome="refused" if failure else "ran",
        message=printed,
        error=error_text,
        launch_digest=seen.record.components.digest if seen.record else "",
        phases=tuple(seen.timeline.phases),
        explanation=_explanation(stage.references.get(scenario.reference), seen),
        as_expected=expected,
        console=() if expected else seen.console,
    )


def _judge(scenario: Scenario, failure: SealpodError | None, status: int, printed: str, message: str) -> bool:
    if scenario.expected_error:
        return failure is not None and scenario.expected_error in failure.one_line() and not printed
    return failure is None and status == 0 and printed == message


def _explanation(reference: Components | None, seen: Observation) -> tuple[str, ...]:
    if reference is None or seen.record is None:
        return ()
    differences = explain(reference, seen.record.components)
    return tuple(f"the {difference.part} differs: {difference.detail}" for difference in differences)

# SPDX-License-Identifier: Apache-2.0
"""Pod start on the model against its floor, phase by phase. Prints figures; asserts nothing.

Floor: the same QEMU, firmware, kernel, initrd and memory, booting straight to a script that prints one line
(``rdinit=/floor``), from QEMU's start to that line. Pod: ``sealpod run`` of a small encrypted image, attested
by a key broker on loopback, from the command's start to the container's first output. Both are taken in
turn in one run, so that what else the machine does weighs on both. The budget is floor + 5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sealpod.cli import hostoptions
from sealpod.demo.stage import Stage, open_stage
from sealpod.qemu.machine import start_machine
from sealpod.qemu.vcpu import vcpu_signature
from sealpod.sandbox.host import Host, open_host
from sealpod.sandbox.inputs import read_inputs
from sealpod.sandbox.launch import launch_spec, machine_spec
from sealpod.sandbox.pod import run_pod
from sealpod.sandbox.spec import PodSpec
from sealpod.sandbox.timeline import Observation, Timeline

BUDGET = 5.0  # seconds over the floor
FLOOR_LINE = "sealpod: floor"


@dataclass
class Samples:
    """Seconds by name, one list per figure."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        self.values.setdefault(name, []).append(seconds)

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])


async def floor(host: Host, spec: PodSpec, samples: Samples) -> None:
    """One boot to one line."""
    spec = replace(spec, kbc="none", kbs="", extra_cmdline=("rdinit=/floor",))
    inputs = await read_inputs(spec, lambda: vcpu_signature(host.accelerator))
    if host.platform is None:
        raise SystemExit("this bench launches measured guests, which need a platform")
    launch = await host.platform.launch(launch_spec(spec, inputs, None))
    begin = time.monotonic()
    async with start_machine(host.qemu, machine_spec("floor", host, spec, inputs, launch)) as machine:
        line = machine.console.watch(FLOOR_LINE)
        await launch.measure(machine)
        await launch.finish(machine)
        await machine.resume()
        await line.wait()
        samples.add("floor", time.monotonic() - begin)
    await launch.close()


async def command(stage: Stage, name: str, samples: Samples) -> None:
    """One ``sealpod run``, as a user starts it, to the first byte of output."""
    spec = stage.specs[name]
    words = ["run", "-q", "--kbc", spec.kbc, "--kbs", spec.kbs, "--memory", str(spec.memory)]
    words += ["--firmware", spec.files.firmware, "--kernel", spec.files.kernel, "--initrd", spec.files.initrd]
    words += ["--platform-state", stage.platform, stage.image(name)]
    begin = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sealpod.cli.main", *words, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    first = await process.stdout.read(1)
    if not first:
        raise SystemExit(f"sealpod run ended with {await process.wait()} and printed nothing")
    samples.add("pod", time.monotonic() - begin)
    await process.stdout.read()
    await process.wait()


async def phases(host: Host, stage: Stage, name: str, samples: Samples) -> None:
    """One pod in this process, for its phases and the marks on its console."""
    seen = Observation(Timeline())
    await run_pod(host, stage.specs[name], stage.inside(name), (), seen, stdout=_drop, stderr=_drop)
    for phase in seen.timeline.phases:
        samples.add(f"phase {phase.name}", phase.seconds)


def _drop(_data: object) -> None: ...


def report(samples: Samples, out: Callable[[str], None] = print) -> None:
    """The table of docs/benchmarks.md."""
    base, pod = samples.median("floor"), samples.median("pod")
    out(f"floor                {base:7.2f} s  median of {len(samples.values['floor'])}")
    out(f"pod, first output    {pod:7.2f} s  = floor x {pod / base:.2f}")
    out(f"added by sealpod     {pod - base:7.2f} s  (budget {BUDGET:g} s)")
    for name in samples.values:
        if name.startswith("phase "):
            out(f"  {name[6:]:<18} {samples.median(name):7.2f} s")


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="samples of each figure (default: 3)")
    parser.add_argument("--scenario", choices=("plain", "offline", "online"), default="online")
    hostoptions.add_host_arguments(parser)
    args = parser.parse_args()
    samples = Samples()
    with tempfile.TemporaryDirectory(prefix="sealpod-bench-") as directory:
        files = hostoptions.guest_files(args)
        async with open_stage(os.path.join(directory, "stage"), files, "bench", _drop) as stage:
            options = hostoptions.host_options(args, platform_state=stage.platform)
            async with open_host(options, lambda text: print(text, file=sys.stderr)) as host:
                for number in range(args.runs):
                    print(f"run {number + 1} of {args.runs}", file=sys.stderr)
                    await floor(host, stage.specs[args.scenario], samples)
                    await command(stage, args.scenario, samples)
                    await phases(host, stage, args.scenario, samples)
    report(samples)


if __name__ == "__main__":
    asyncio.run(main())

# SPDX-License-Identifier: Apache-2.0
"""``sealpod demo``: the whole flow on this machine, in five scenarios, on real parts."""

from __future__ import annotations

import argparse
import os
import secrets

from sealpod.cli.hostoptions import add_host_arguments, guest_files, host_options
from sealpod.cli.progress import PHASES, Progress
from sealpod.errors import UsageError

HELP = """\
Show the main job on this machine: build and encrypt a small image, push it to a registry, give its key to a
key broker with a policy, and run it in measured guests. Five scenarios: three run, two must be refused.
Everything listens on loopback; files stay below --directory. The platform is the software model.
"""

REPORT = "report.json"
MAXIMUM_MESSAGE = 1000  # characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``sealpod demo``."""
    parser.add_argument("--directory", default=".demo", metavar="DIR", help="where files go (default: .demo)")
    parser.add_argument("--message", default="", help="what the containers print (default: random)")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    add_host_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """0 when every scenario ended as it must."""
    from sealpod.cli.aio import run_async

    message = args.message or f"hello from the guest {secrets.token_hex(4)}"
    if not message.isprintable() or len(message) > MAXIMUM_MESSAGE or message != message.strip():
        raise UsageError(f"the message is one line of at most {MAXIMUM_MESSAGE} characters")
    progress = Progress(quiet=args.quiet)
    return run_async(_demo(args, message, progress), lambda: progress.current)


async def _demo(args: argparse.Namespace, message: str, progress: Progress) -> int:
    from sealpod.demo.report import encode, render, write
    from sealpod.demo.scenarios import SCENARIOS, play
    from sealpod.demo.stage import open_stage
    from sealpod.sandbox.host import open_host

    directory = os.path.abspath(args.directory)
    progress.note("the platform is a software model of the SEV firmware: it attests, it protects nothing")
    results = []
    async with open_stage(directory, guest_files(args), message, progress.step) as stage:
        for scenario in SCENARIOS:

            def announce(phase: str, name: str = scenario.name) -> None:
                progress.step(f"{name}: {PHASES.get(phase, phase)}")

            state = stage.stranger if scenario.stranger else stage.platform
            async with open_host(host_options(args, platform_state=state), lambda _text: None) as host:
                results.append(await play(scenario, stage, host, message, announce))
            progress.clear()
            if args.output == "text":
                print(render(results[-1]), flush=True)
        write(os.path.join(directory, REPORT), results)
    if args.output == "json":
        print(encode(results), end="")
    return 0 if all(result.as_expected for result in results) else 1

# SPDX-License-Identifier: Apache-2.0
"""``sealpod demo``: the whole flow on this machine, in five scenarios, on real parts."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sealpod.cli.hostoptions import add_host_arguments, guest_files, open_host
from sealpod.cli.progress import Progress
from sealpod.errors import OperationError, UsageError

if TYPE_CHECKING:
    from sealpod.demo.report import Result
    from sealpod.demo.scenarios import Scenario
    from sealpod.measure.components import Components
    from sealpod.sandbox.spec import PodSpec

HELP = """\
Show the main job on this machine: build and encrypt a small image, push it to a registry, give its key to a
key broker with a policy, and run it in measured guests. Five scenarios: three run, two must be refused.
Everything listens on loopback; files stay below --directory.
"""

REPORT: Final = "report.json"
KEY_ID: Final = "key_id1"
KEYSET: Final = "KEYSET-1"
MEMORY: Final = 512  # MiB: five guests in a row should not need a large machine


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

    return run_async(_demo(args))


@dataclass(frozen=True, slots=True)
class _Stage:
    """What the scenarios share: the place, the servers' addresses, the message."""

    directory: str
    registry: str
    broker: str
    database: str
    message: str
    progress: Progress


async def _demo(args: argparse.Namespace) -> int:
    from sealpod.demo.report import encode, render, write

    progress = Progress(quiet=args.quiet)
    message = args.message or f"hello from the guest {secrets.token_hex(4)}"
    if "\n" in message or len(message) > 1000:
        raise UsageError("the message is one line of at most 1000 characters")
    results: list[Result] = []
    async with _stage(args, message, progress) as stage:
        scenarios = await _prepare(args, stage)
        for scenario in scenarios:
            results.append(await _play(args, stage, scenario))
            progress.clear()
            if args.output == "text":
                print(render(results[-1]), flush=True)
        write(os.path.join(stage.directory, REPORT), results)
    if args.output == "json":
        print(encode(results), end="")
    return 0 if all(result.as_expected for result in results) else 1


@contextlib.asynccontextmanager
async def _stage(args: argparse.Namespace, message: str, progress: Progress) -> AsyncIterator[_Stage]:
    from sealpod.demo import services

    directory = os.path.abspath(args.directory)
    _clean(directory)
    progress.step("starting a registry and a key broker on loopback")
    async with contextlib.AsyncExitStack() as scope:
        registry = await scope.enter_async_context(services.registry(os.path.join(directory, "registry")))
        fingerprint = await _fingerprint(_platform(directory), directory)
        broker = await scope.enter_async_context(services.broker(directory, fingerprint))
        database = f"sqlite:///{directory}/kbs.db"
        yield _Stage(directory, registry, broker, database, message, progress)


def _clean(directory: str) -> None:
    # The platforms' keys stay: making them takes seconds, and a platform is the same one tomorrow.
    os.makedirs(directory, mode=0o700, exist_ok=True)
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if name in ("platform", "stranger"):
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _platform(directory: str, name: str = "platform") -> str:
    return os.path.join(directory, name)


async def _fingerprint(state: str, directory: str) -> str:
    import hashlib

    from sealpod.platform.model import open_model
    from sealpod.sev.chain import Chain

    platform = await open_model(state)
    try:
        chain = Chain.decode(await platform.certificate_chain())
    finally:
        await platform.close()
    return hashlib.sha256(chain.ark.encode()).hexdigest()


async def _prepare(args: argparse.Namespace, stage: _Stage) -> list[Scenario]:
    """Build, encrypt and push the image; fill the broker; return the scenarios."""
    from sealpod.demo.scenarios import Scenario
    from sealpod.sandbox.network import from_guest

    plain, encrypted = f"{stage.registry}/demo/app:plain", f"{stage.registry}/demo/app:encrypted"
    specs = _specs(args, stage)
    await _publish(stage, plain, encrypted)
    references = {name: await _reference(stage, specs[name]) for name in ("offline", "online")}
    await _fill_broker(stage, references)
    inside = {
        image: image.replace(stage.registry, from_guest(stage.registry), 1) for image in (plain, encrypted)
    }
    return [
        Scenario("plain", specs["plain"], inside[plain]),
        Scenario("offline", specs["offline"], inside[encrypted]),
        Scenario("online", specs["online"], inside[encrypted]),
        Scenario(
            "tampered",
            specs["tampered"],
            inside[encrypted],
            expected_error="fw digest not valid",
            reference=references["offline"],
        ),
        Scenario("stranger", specs["offline"], inside[encrypted], expected_error="[chain.untrusted-root]"),
    ]


def _specs(args: argparse.Namespace, stage: _Stage) -> dict[str, PodSpec]:
    from sealpod.sandbox.network import from_guest
    from sealpod.sandbox.spec import DEFAULT_POLICY, PodSpec
    from sealpod.sev.policy import Policy

    plain = PodSpec(
        files=guest_files(args),
        policy=Policy(DEFAULT_POLICY),
        memory=MEMORY,
        insecure_registries=(from_guest(stage.registry),),
    )
    offline = replace(plain, kbc="offline", kbs=stage.broker, keyset=KEYSET)
    # The tampering host points the guest at another registry: one digit of its port.
    port = from_guest(stage.registry)
    other = port[:-1] + str((int(port[-1]) + 1) % 10)
    return {
        "plain": plain,
        "offline": offline,
        "online": replace(offline, kbc="online"),
        "tampered": replace(offline, insecure_registries=(other,)),
    }


async def _publish(stage: _Stage, plain: str, encrypted: str) -> None:
    from sealpod.demo.image import build_image
    from sealpod.guestimage.busybox import read_busybox
    from sealpod.registry.transports import open_sink

    stage.progress.step("building the image")
    layout = f"oci:{stage.directory}/image:app"
    sink, tag = open_sink(layout)
    build_image(sink, tag, await asyncio.to_thread(read_busybox), stage.message)
    key = os.path.join(stage.directory, "key")
    with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        target.write(secrets.token_bytes(32))
    await _sealpod(stage, "image", "copy", layout, f"docker://{plain}")
    await _sealpod(
        stage, "image", "encrypt", layout, f"docker://{encrypted}", "--key-id", KEY_ID, "--key-file", key
    )


async def _reference(stage: _Stage, spec: PodSpec) -> Components:
    """What the guest owner records: the launch digest of the files and command line they agreed to."""
    from sealpod.measure.components import Components
    from sealpod.sandbox.inputs import command_line

    files = spec.files
    output = await _sealpod(
        stage,
        *("measure", "--mode", "sev", "--ovmf", files.firmware, "--kernel", files.kernel),
        *("--initrd", files.initrd, "--append", command_line(spec), "-o", "json"),
    )
    return Components.from_json(output)


async def _fill_broker(stage: _Stage, references: dict[str, Components]) -> None:
    database = ("--database", stage.database)
    digests = [word for reference in references.values() for word in ("--digest", reference.digest)]
    key = os.path.join(stage.directory, "key")
    await _sealpod(stage, "kbs", "policy", "set", "demo", *digests, *database)
    await _sealpod(stage, "kbs", "secret", "set", KEY_ID, "--from-file", key, "--policy", "demo", *database)
    await _sealpod(stage, "kbs", "keyset", "set", KEYSET, "--secret", KEY_ID, "--policy", "demo", *database)


async def _play(args: argparse.Namespace, stage: _Stage, scenario: Scenario) -> Result:
    from sealpod.demo.scenarios import play

    state = "stranger" if scenario.name == "stranger" else "platform"
    options = argparse.Namespace(**{**vars(args), "platform_state": _platform(stage.directory, state)})
    async with open_host(options, lambda _text: None) as host:
        return await play(scenario, host, stage.message, lambda name: _phase(stage, scenario, name))


def _phase(stage: _Stage, scenario: Scenario, name: str) -> None:
    from sealpod.cli.progress import PHASES

    stage.progress.step(f"{scenario.name}: {PHASES.get(name, name)}")


async def _sealpod(stage: _Stage, *words: str) -> str:
    """Run one sealpod command as a user would, shown on standard error; its output."""
    shown = shlex.join(word if len(word) < 100 else f"{word[:60]}..." for word in words)
    stage.progress.step(f"$ sealpod {shown}")
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "sealpod.cli.main"),
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise OperationError(f"`sealpod {shown}` failed: {last[0]}", code="demo.step")
    return output.decode()

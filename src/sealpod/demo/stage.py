# SPDX-License-Identifier: Apache-2.0
"""The stage: a registry, a broker, a platform it trusts, and an image in both forms, with its key's policy.

What an owner would type is run as commands and shown, so that the demonstration can be repeated by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from sealpod.demo import services
from sealpod.demo.image import build_image
from sealpod.errors import OperationError
from sealpod.guestimage.busybox import read_busybox
from sealpod.measure.components import Components
from sealpod.platform.model import open_model
from sealpod.registry.transports import open_sink
from sealpod.sandbox.inputs import command_line
from sealpod.sandbox.network import from_guest
from sealpod.sandbox.spec import DEFAULT_KEYSET, DEFAULT_POLICY, GuestFiles, PodSpec
from sealpod.sev.chain import Chain
from sealpod.sev.policy import Policy

KEY_ID: Final = "key_id1"
POLICY_NAME: Final = "demo"
MEMORY: Final = 512  # MiB: guests of a demonstration should not need a large machine
# A platform's keys stay from run to run: making them takes seconds, and a machine is the same one tomorrow.
PLATFORM: Final = "platform"
STRANGER: Final = "stranger"
ATTESTED: Final = ("offline", "online")
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """What the scenarios share. ``specs`` and ``references`` are by scenario name."""

    directory: str
    registry: str
    broker: str
    specs: Mapping[str, PodSpec]
    references: Mapping[str, Components]

    @property
    def platform(self) -> str:
        """State directory of the platform the broker trusts."""
        return os.path.join(self.directory, PLATFORM)

    @property
    def stranger(self) -> str:
        """State directory of a platform it does not."""
        return os.path.join(self.directory, STRANGER)

    def image(self, scenario: str) -> str:
        """The image of a scenario as this host names it."""
        return _image(self.registry, scenario == "plain")

    def inside(self, scenario: str) -> str:
        """The image of a scenario as the guest names it."""
        return self.image(scenario).replace(self.registry, from_guest(self.registry), 1)


@contextlib.asynccontextmanager
async def open_stage(directory: str, files: GuestFiles, message: str, note: Note) -> AsyncIterator[Stage]:
    """Build the stage in ``directory`` (emptied first) for the length of the block."""
    _clean(directory)
    database = f"sqlite:///{directory}/kbs.db"
    async with contextlib.AsyncExitStack() as scope:
        note("starting a registry and a key broker on loopback")
        registry = await scope.enter_async_context(services.registry(os.path.join(directory, "registry")))
        fingerprint = await _fingerprint(os.path.join(directory, PLATFORM))
        broker = await scope.enter_async_context(services.broker(directory, fingerprint))
        await _publish(directory, registry, message, note)
        specs = _specs(files, registry, broker)
        references = {name: await _reference(specs[name], note) for name in ATTESTED}
        await _fill_broker(directory, database, references, note)
        yield Stage(directory, registry, broker, specs, references)


def _clean(directory: str) -> None:
    os.makedirs(directory, mode=0o700, exist_ok=True)
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if name in (PLATFORM, STRANGER):
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


async def _fingerprint(state: str) -> str:
    platform = await open_model(state)
    try:
        chain = Chain.decode(await platform.certificate_chain())
    finally:
        await platform.close()
    return hashlib.sha256(chain.ark.encode()).hexdigest()


def _image(registry: str, plain: bool) -> str:
    return f"{registry}/demo/app:{'plain' if plain else 'encrypted'}"


def _specs(files: GuestFiles, registry: str, broker: str) -> dict[str, PodSpec]:
    inside = from_guest(registry)
    plain = PodSpec(files=files, policy=Policy(DEFAULT_POLICY), memory=MEMORY, insecure_registries=(inside,))
    offline = replace(plain, kbc="offline", kbs=broker)
    # The tampering host points the guest at another registry: one digit of its port.
    other = inside[:-1] + str((int(inside[-1]) + 1) % 10)
    return {
        "plain": plain,
        "offline": offline,
        "online": replace(offline, kbc="online"),
        "tampered": replace(offline, insecure_registries=(other,)),
        "stranger": offline,
    }


async def _publish(directory: str, registry: str, message: str, note: Note) -> None:
    note("building the image")
    layout = f"oci:{directory}/image:app"
    sink, tag = open_sink(layout)
    build_image(sink, tag, await asyncio.to_thread(read_busybox), message)
    key = os.path.join(directory, "key")
    with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        target.write(secrets.token_bytes(32))
    plain, encrypted = (f"docker://{_image(registry, choice)}" for choice in (True, False))
    await _sealpod(note, "image", "copy", layout, plain)
    await _sealpod(note, "image", "encrypt", layout, encrypted, "--key-id", KEY_ID, "--key-file", key)


async def _reference(spec: PodSpec, note: Note) -> Components:
    """What the guest owner records: the launch digest of the files and command line they agreed to."""
    files = spec.files
    output = await _sealpod(
        note,
        *("measure", "--mode", "sev", "--ovmf", files.firmware, "--kernel", files.kernel),
        *("--initrd", files.initrd, "--append", command_line(spec), "-o", "json"),
    )
    return Components.from_json(output)


async def _fill_broker(
    directory: str, database: str, references: Mapping[str, Components], note: Note
) -> None:
    at = ("--policy", POLICY_NAME, "--database", database)
    digests = [word for reference in references.values() for word in ("--digest", reference.digest)]
    key = os.path.join(directory, "key")
    await _sealpod(note, "kbs", "policy", "set", POLICY_NAME, *digests, "--database", database)
    await _sealpod(note, "kbs", "secret", "set", KEY_ID, "--from-file", key, *at)
    await _sealpod(note, "kbs", "keyset", "set", DEFAULT_KEYSET, "--secret", KEY_ID, *at)


async def _sealpod(note: Note, *words: str) -> str:
    """Run one sealpod command as a user would; its output."""
    shown = shlex.join(word if len(word) < 100 else f"{word[:60]}..." for word in words)
    note(f"$ sealpod {shown}")
    process = await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "sealpod.cli.main"),
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise OperationError(f"`sealpod {shown}` failed: {last[0]}", code="demo.step")
    return output.decode()

# SPDX-License-Identifier: Apache-2.0
"""Where key-encryption keys come from: a file, the environment, or what a program prints.

A source is ``file:PATH``, ``env:NAME`` or ``command:PROGRAM ARGUMENT ...`` (run without a shell). It holds
one key per line, each as base64 or hex, or is a file of exactly 32 bytes. The first key of the active source
seals; all others only open what was sealed before. ``none`` is the word for no key at all: secrets are then
kept as simple-kbs keeps them.
"""

from __future__ import annotations

import binascii
import os
import shlex
import subprocess
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sealpod.errors import (
    AccessError,
    NotFoundError,
    OperationError,
    UsageError,
)
from sealpod.kbs.core.sealing import KEY_SIZE, KeyRing
from sealpod.secret import SecretBytes

KEK_VARIABLE: Final = "SEALPOD_KBS_KEK"
OLD_KEKS_VARIABLE: Final = "SEALPOD_KBS_OLD_KEKS"
"""Further sources, one per line."""
NONE: Final = "none"
MAX_SOURCE: Final = 64 * 1024
"""Bytes read of a source: hundreds of keys, less than a file named by mistake."""
COMMAND_TIMEOUT: Final = 30.0
"""Seconds a command has to print its key; a key service abroad answers in a few."""


@dataclass(frozen=True, slots=True)
class KekSources:
    """Sources of key-encryption keys; without an active one the database's default applies."""

    active: str | None = None
    older: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> KekSources:
        """What ``SEALPOD_KBS_KEK`` and ``SEALPOD_KBS_OLD_KEKS`` say."""
        older = environment.get(OLD_KEKS_VARIABLE, "").splitlines()
        active = environment.get(KEK_VARIABLE, "").strip()
        return cls(active or None, tuple(line.strip() for line in older if line.strip()))


def load_ring(sources: KekSources, *, rng: Callable[[int], bytes]) -> KeyRing:
    """Read all sources. :raise SealpodError: one cannot be read, or holds no key."""
    if sources.active is None:
        raise UsageError("no key-encryption key is given", code="kek.unconfigured", remedy=REMEDY)
    keys = [key for source in (sources.active, *sources.older) for key in load_keys(source)]
    return KeyRing(keys[0], keys[1:], rng=rng)


def load_keys(source: str) -> tuple[SecretBytes, ...]:
    """The keys of one source. :raise SealpodError: it cannot be read, or holds no key."""
    kind, _, rest = source.partition(":")
    if source.startswith("/"):
        kind, rest = "file", source
    if not rest or kind not in _READERS:
        raise UsageError(
            f"not a source of a key-encryption key: {kind[:20]!r}", code="kek.source", remedy=REMEDY
        )
    return _parse(_READERS[kind](rest), f"{kind}:{shlex.split(rest)[0] if kind == 'command' else rest}")


REMEDY: Final = (
    "give --kek file:PATH, env:NAME or `command:PROGRAM ...`; `openssl rand -base64 32` makes a key"
)


def _parse(raw: bytes, where: str) -> tuple[SecretBytes, ...]:
    if len(raw) == KEY_SIZE:
        return (SecretBytes(raw),)
    lines = [line.strip() for line in raw.splitlines()]
    keys = tuple(_key(line, where) for line in lines if line and not line.startswith(b"#"))
    if not keys:
        raise _malformed(where)
    return keys


def _key(line: bytes, where: str) -> SecretBytes:
    # Neither decoder's words may come through: they could quote the key.
    try:
        digits = len(line) == 2 * KEY_SIZE
        key = bytes.fromhex(line.decode("ascii")) if digits else b64decode(line, validate=True)
    except (ValueError, binascii.Error):
        raise _malformed(where) from None
    if len(key) != KEY_SIZE:
        raise _malformed(where)
    return SecretBytes(key)


def _malformed(where: str) -> UsageError:
    return UsageError(
        f"{where} does not hold key-encryption keys of {KEY_SIZE} bytes", code="kek.malformed", remedy=REMEDY
    )


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC)) as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & 0o007:
                raise AccessError(
                    f"the key-encryption key in {path} is open to every user of this machine",
                    code="kek.permissions",
                    remedy=f"chmod 0600 {path}; in Kubernetes set the volume's defaultMode to 0400",
                )
            raw = file.read(MAX_SOURCE + 1)
    except FileNotFoundError:
        raise NotFoundError(f"no key-encryption key {path}", code="kek.missing", remedy=REMEDY) from None
    except OSError as error:
        raise OperationError(f"cannot read {path}: {error.strerror}", code="kek.unreadable") from None
    if len(raw) > MAX_SOURCE:
        raise _malformed(f"file:{path}")
    return raw


def _read_environment(name: str) -> bytes:
    value = os.environ.get(name)
    if value is None:
        raise NotFoundError(f"no environment variable {name}", code="kek.missing", remedy=REMEDY)
    return value.encode("utf-8", "surrogateescape")


def _run(command: str) -> bytes:
    try:
        argv = shlex.split(command)
    except ValueError:
        argv = []
    if not argv:
        raise UsageError("not a command that prints a key", code="kek.source", remedy=REMEDY)
    try:
        # What it says on standard error is the operator's to read, so it goes where ours does.
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=COMMAND_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise OperationError(
            f"{argv[0]} did not print a key within {COMMAND_TIMEOUT:g} s", code="kek.command"
        ) from None
    except OSError as error:
        raise OperationError(f"cannot run {argv[0]}: {error.strerror}", code="kek.command") from None
    if done.returncode != 0:
        raise OperationError(
            f"{argv[0]} failed with status {done.returncode}",
            code="kek.command",
            remedy="run it by hand; it has to print the key on standard output",
        )
    return done.stdout


_READERS: Final[dict[str, Callable[[str], bytes]]] = {
    "file": _read_file,
    "env": _read_environment,
    "command": _run,
}

# SPDX-License-Identifier: Apache-2.0
"""Registry accounts from a containers-auth file (``auth.json``, also Docker's ``config.json``).

``{"auths":{"KEY":{"auth":"<base64 user:password>"}}}``. The most specific key wins: ``host/name``, its
parents, ``host``; then keys that are URLs, by their host. Credential helpers are not run.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Final

from sealpod.errors import DecodeError
from sealpod.oci.reference import ImageReference
from sealpod.registry.client import HUB, Credentials
from sealpod.secret import SecretBytes
from sealpod.wire import strictjson

MAX_FILE: Final = 1024 * 1024  # bytes
_HUB_NAMES: Final = (HUB, "index.docker.io", "registry-1.docker.io")


def parse_auth_file(data: bytes) -> Callable[[ImageReference], Credentials | None]:
    """A function from references to accounts; DecodeError if the file is malformed."""
    document = strictjson.parse_object(data, what="auth file", limit=MAX_FILE)
    entries = strictjson.member(document, "auths", what="auth file")
    accounts = {name: _account(name, entry) for name, entry in entries.items() if _has_account(entry)}

    def find(reference: ImageReference) -> Credentials | None:
        for key in _keys(reference):
            if key in accounts:
                return accounts[key]
        for name, account in accounts.items():
            if _same_host(_host(name), reference.registry):
                return account
        return None

    return find


def _has_account(entry: object) -> bool:
    # An entry without `auth` belongs to a credential helper; it is as good as absent.
    return not isinstance(entry, dict) or bool(entry.get("auth"))


def _account(name: str, entry: object) -> Credentials:
    text = entry.get("auth") if isinstance(entry, dict) else None
    try:
        username, colon, password = base64.b64decode(str(text), validate=True).partition(b":")
        if not colon or not username:
            raise ValueError("no user and password")
        # `base64 <<<user:password` leaves a newline that no password has.
        return Credentials(username.decode("utf-8"), SecretBytes(password.rstrip(b"\n")))
    except (binascii.Error, ValueError):
        raise DecodeError(f"illegal auth content for {name[:140]!r}", code="registry.auth-file") from None


def _keys(reference: ImageReference) -> list[str]:
    parts = [reference.registry, *reference.repository.split("/")]
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _host(name: str) -> str:
    """The host of a key written as a URL; empty for one that has a path of its own."""
    bare = name.removeprefix("https://").removeprefix("http://")
    return bare.partition("/")[0] if bare != name or "/" not in bare else ""


def _same_host(name: str, registry: str) -> bool:
    return name == registry or (name in _HUB_NAMES and registry in _HUB_NAMES)

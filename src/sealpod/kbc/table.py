# SPDX-License-Identifier: Apache-2.0
"""Key broker clients by name, and ``aa_kbc_params``: ``<name>::<uri>``, as the attestation agent reads it.

The parameter stands on the measured kernel command line, so the owner's policy decides which client a guest
uses and whom it asks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final
from uuid import UUID

from sealpod.errors import UsageError
from sealpod.kbc.port import KeyBrokerClient
from sealpod.kbc.secretarea import take_secret
from sealpod.secret import SecretBytes

#: Name on the command line -> module and class. Imported when chosen: each costs boot time.
CLIENTS: Final[dict[str, tuple[str, str]]] = {
    "offline_sev_kbc": ("sealpod.kbc.offline", "OfflineClient"),
    "online_sev_kbc": ("sealpod.kbc.online", "OnlineClient"),
}


def parse_params(text: str) -> tuple[str, str]:
    """Name and URI. Raises :class:`UsageError` (``kbc.params``) in the attestation agent's words."""
    name, separator, uri = text.partition("::")
    if not separator:
        raise _bad("KBC/KBS pair not found")
    if not name:
        raise _bad("missing KBC name")
    if not uri:
        raise _bad("missing KBS URI")
    if name not in CLIENTS:
        raise _bad(f"AA does not support the given KBC module! Module: {name}")
    return name, uri


def open_kbc(aa_kbc_params: str, take: Callable[[UUID], SecretBytes] = take_secret) -> KeyBrokerClient:
    """The client that ``aa_kbc_params`` names, its launch secret already taken.

    :raise UsageError: ``kbc.params``.
    :raise NotFoundError: ``kbc.no-secret``: this guest was given none.
    """
    name, uri = parse_params(aa_kbc_params)
    module, factory = CLIENTS[name]
    client: KeyBrokerClient = getattr(importlib.import_module(module), factory).open(uri, take)
    return client


def _bad(message: str) -> UsageError:
    return UsageError(
        message,
        code="kbc.params",
        remedy="set agent.aa_kbc_params to offline_sev_kbc::null or online_sev_kbc::HOST:PORT",
    )

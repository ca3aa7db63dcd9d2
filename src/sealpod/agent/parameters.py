# SPDX-License-Identifier: Apache-2.0
"""The agent's settings: ``agent.*`` parameters of the kernel command line, and a file of the image's.

The command line is measured at launch, so whoever released the secrets has agreed to these settings; nothing
the host says later changes them. Names are the Kata agent's; unknown ones are ignored as there, because the
line is shared with the kernel. When a name stands twice, the last one counts, as with the kernel's own.
``agent.config_file`` names a file with more of them, which is measured with the image; the line overrides it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sealpod.agent import endpoints
from sealpod.agent.endpoints import Endpoints
from sealpod.errors import UsageError

VERSION: Final = "sealpod-agent 0.1.0"
PREFIX = "agent."
TRUE = ("", "1", "true", "on", "yes")
FALSE = ("0", "false", "off", "no")


class Parameters(NamedTuple):
    """What the command line decides."""

    aa_kbc_params: str = ""
    """``<kbc>::<uri>``; empty means that no encrypted image can be run."""
    insecure_registries: tuple[str, ...] = ()
    """``host:port`` of registries that may be spoken to without TLS."""
    debug: bool = False
    """Log every call on the console."""
    verify_signatures: bool = False
    """Run signed images only. Not built yet: pulling is refused while it is set."""
    endpoints: Endpoints = Endpoints()
    """Which calls of the host are answered."""
    encrypted_only: bool = False
    """Run images only whose every layer is encrypted."""
    privileged: bool = True
    """Whether containers may have rights that reach into the guest; where there are keys, only if said."""


def parse(cmdline: str) -> Parameters:
    """The parameters in ``/proc/cmdline`` and the file it names.

    Raises :class:`UsageError` for a value that makes no sense, and for a file that cannot be read.
    """
    found: dict[str, str] = {}
    for word in cmdline.split():
        name, _, value = word.partition("=")
        if name.startswith(PREFIX):
            found[name.removeprefix(PREFIX)] = value
    if found.get("config_file"):
        from sealpod.agent import configfile

        found = {**configfile.read(found["config_file"]), **found}
    return Parameters(
        aa_kbc_params=found.get("aa_kbc_params", ""),
        insecure_registries=tuple(filter(None, found.get("insecure_registries", "").split(","))),
        debug=found.get("log", found.get("log_level", "info")) in ("debug", "trace"),
        verify_signatures=_flag(found, "enable_signature_verification"),
        endpoints=endpoints.parse(found.get("allowed_endpoints"), found.get("blocked_endpoints", "")),
        encrypted_only=_flag(found, "encrypted_images_only"),
        privileged=_flag(found, "privileged_containers", default=not found.get("aa_kbc_params")),
    )


def _flag(found: dict[str, str], name: str, *, default: bool = False) -> bool:
    value = found.get(name, str(default)).lower()
    if value in TRUE or value in FALSE:
        return value in TRUE
    raise UsageError(
        f"kernel parameter {PREFIX}{name}={value} is neither true nor false", code="agent.parameter"
    )

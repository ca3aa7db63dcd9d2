# SPDX-License-Identifier: Apache-2.0
"""The agent's configuration file in the guest image, whose bytes are measured with it.

TOML; the names are those of the kernel parameters without ``agent.``, and ``[endpoints] allowed`` is the list
``allowed_endpoints``::

    aa_kbc_params = "offline_sev_kbc::null"
    enable_signature_verification = false

    [endpoints]
    allowed = ["CreateSandboxRequest", "CreateContainerRequest"]

A file that was named and cannot be read stops the guest: running on without its restrictions would be worse.
"""

from __future__ import annotations

from typing import Final

from sealpod.errors import UsageError

MAX_SIZE: Final = 64 * 1024
CODE: Final = "agent.config-file"


def read(path: str) -> dict[str, str]:
    """Values by name, as they would stand on the command line. Raises :class:`UsageError`."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SIZE + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not a path"
        raise UsageError(f"cannot read the agent's configuration {path[:200]}: {reason}", code=CODE) from exc
    if len(data) > MAX_SIZE:
        raise UsageError(f"the agent's configuration is larger than {MAX_SIZE} bytes", code=CODE)
    return parse(data)


def parse(data: bytes) -> dict[str, str]:
    """What :func:`read` returns, of a file's bytes."""
    import tomllib  # here: few guests have the file, and its import costs

    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"the agent's configuration is no TOML: {str(exc)[:200]}", code=CODE) from exc
    found = {}
    for name, value in document.items():
        if name == "endpoints":
            if not isinstance(value, dict) or set(value) - {"allowed", "blocked"}:
                raise UsageError("[endpoints] has the keys allowed and blocked", code=CODE)
            found.update({f"{key}_endpoints": _text(f"endpoints.{key}", value[key]) for key in value})
        else:
            found[name] = _text(name, value)
    return found


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, list) and all(isinstance(one, str) and "," not in one for one in value):
        return ",".join(value)
    text = f"{name[:100]} in the agent's configuration is neither text, number, flag nor a list of texts"
    raise UsageError(text, code=CODE)

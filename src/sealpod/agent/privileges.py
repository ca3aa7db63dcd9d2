# SPDX-License-Identifier: Apache-2.0
"""What a container is not given in a guest that holds keys, unless its measured settings say so.

With these rights a container is no longer kept from the guest: it loads modules or a kernel, mounts and
loads programs into the kernel, opens files by their handles, and so reads the agent's memory and every other
container. In a guest without keys they are the host's to give, as in any pod. capabilities(7).
"""

from __future__ import annotations

from typing import Final

from sealpod.errors import RefusedError
from sealpod.wire.message import Message

_ESCAPES = ("SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "DAC_READ_SEARCH", "BPF", "PERFMON")
ESCAPES: Final = frozenset(f"CAP_{name}" for name in _ESCAPES)
SETS: Final = ("Bounding", "Effective", "Inheritable", "Permitted", "Ambient")


def check(asked: Message) -> None:
    """Raises :class:`RefusedError` (``container.privileged``) for a ``grpc.Process`` that asks for one."""
    names = {name for part in SETS for name in getattr(asked.Capabilities, part)}
    found = sorted(names & ESCAPES)
    if found:
        raise RefusedError(
            f"a container of this guest cannot have {', '.join(found)}: it could read the guest's keys",
            code="container.privileged",
            remedy="leave privileges out of the pod, or set agent.privileged_containers=true, which changes"
            " the launch digest",
        )

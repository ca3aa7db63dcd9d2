# SPDX-License-Identifier: Apache-2.0
"""A pod the host gives no name: its containers have one all the same, and their files say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sealpod.wire.pb import agent_pb2

if TYPE_CHECKING:
    from conftest import Guest  # type: ignore[import-not-found]


@pytest.fixture(scope="module")
def pod(guest: Guest) -> Guest:
    guest.client.call("CreateSandbox", agent_pb2.CreateSandboxRequest(sandbox_id="s1"))
    return guest


def test_it_is_called_localhost(pod: Guest) -> None:
    """Not "(none)", the kernel's own word, which programs that look up their own name fail on."""
    script = "read name < /proc/sys/kernel/hostname; echo $name; cat /etc/hostname"
    assert pod.run("name", "/bin/sh", "-c", script) == (0, b"localhost\nlocalhost\n", b"")

# SPDX-License-Identifier: Apache-2.0
"""The way to the host: a virtio-serial port, found by its name.

Kernels with udev have ``/dev/virtio-ports/<name>``; without, the name stands in
``/sys/class/virtio-ports/<port>/name`` and the device is ``/dev/<port>``. While no host process holds the
other end, reads return nothing at once and poll(2) reports a hang-up, which is not the end of the port.
"""

from __future__ import annotations

import os
import select
import time
from typing import Final

from sealpod.errors import UnavailableError

PORT_NAME: Final = "agent.channel.0"
PORT_LINKS: Final = "/dev/virtio-ports"
PORT_CLASS: Final = "/sys/class/virtio-ports"
FIND_TIMEOUT: Final = 30.0
"""Seconds; the driver's probe runs while the agent starts, slowly under emulation."""
PAUSE: Final = 0.02
"""Seconds between looks, both for the port and for the host; the kernel announces neither to poll(2)."""


def find(name: str = PORT_NAME, *, links: str = PORT_LINKS, classes: str = PORT_CLASS) -> str | None:
    """Path of the port's device, or None if there is no port of this name (yet)."""
    link = os.path.join(links, name)
    if os.path.exists(link):
        return link
    try:
        ports = os.listdir(classes)
    except FileNotFoundError:
        return None
    for port in ports:
        try:
            with open(os.path.join(classes, port, "name"), encoding="utf-8", errors="replace") as file:
                if file.read(256).strip() == name:
                    return os.path.join("/dev", port)
        except OSError:
            continue  # a port that is being set up has no name yet
    return None


def open_port(name: str = PORT_NAME, *, timeout: float = FIND_TIMEOUT) -> int:
    """Descriptor of the port. Raises :class:`UnavailableError` if it does not appear in time."""
    deadline = time.monotonic() + timeout
    while (path := find(name)) is None or not os.path.exists(path):
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"this guest has no virtio port {name}",
                code="agent.no-channel",
                remedy="give the machine a virtserialport of this name and load virtio_console",
            )
        time.sleep(PAUSE)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def wait_for_host(descriptor: int) -> None:
    """Return when a host process holds the other end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        events = poll.poll()
        if any(event & select.POLLIN for _, event in events):
            return
        if not any(event & select.POLLHUP for _, event in events):
            return
        time.sleep(PAUSE)

# SPDX-License-Identifier: Apache-2.0
"""The way to the host: a virtio-serial port, found by its name, or vsock where there is none.

Kernels with udev have ``/dev/virtio-ports/<name>``; without, the name stands in
``/sys/class/virtio-ports/<port>/name`` and the device is ``/dev/<port>``. While no host process holds the
other end, reads return nothing at once and poll(2) reports a hang-up, which is not the end of the port.

A machine may have a vsock device instead (virtio device 19). Its modules cost time to load, so they are only
when there is no port to wait for.
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import Final

from sealpod.errors import UnavailableError

PORT_NAME: Final = "agent.channel.0"
PORT_LINKS: Final = "/dev/virtio-ports"
PORT_CLASS: Final = "/sys/class/virtio-ports"
FIND_TIMEOUT: Final = 30.0
"""Seconds; the driver's probe runs while the agent starts, slowly under emulation."""
VIRTIO_DEVICES: Final = "/sys/bus/virtio/devices"
SERIAL, VSOCK = 3, 19
"""Device numbers of the virtio specification."""
SERIAL_GRACE: Final = 5.0
"""Seconds a machine with both devices is given to show the port."""
VSOCK_MODULE: Final = "vmw_vsock_virtio_transport"
VSOCK_PORT: Final = 1024
"""Kata's."""
HOST_CID: Final = socket.VMADDR_CID_HOST
BACKLOG: Final = 8
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


def open_channel(
    name: str = PORT_NAME, *, timeout: float = FIND_TIMEOUT, devices: str = VIRTIO_DEVICES
) -> int | socket.socket:
    """The port's descriptor, or a listening vsock socket. :class:`UnavailableError` if neither comes."""
    start = time.monotonic()
    while (path := find(name)) is None or not os.path.exists(path):
        waited = time.monotonic() - start
        present = virtio_devices(devices)
        if VSOCK in present and (SERIAL not in present or waited > SERIAL_GRACE):
            return listen()
        if waited > timeout:
            raise UnavailableError(
                f"this guest has neither a virtio port {name} nor vsock",
                code="agent.no-channel",
                remedy="give the machine a virtserialport of this name, or a vhost-vsock device",
            )
        time.sleep(PAUSE)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def virtio_devices(directory: str = VIRTIO_DEVICES) -> set[int]:
    """Numbers of the virtio devices there are."""
    found = set()
    try:
        for entry in os.listdir(directory):
            with open(os.path.join(directory, entry, "device"), encoding="ascii") as file:
                found.add(int(file.read(16), 16))
    except (OSError, ValueError):
        pass  # a device that comes or goes; the next look tells
    return found


def listen(port: int = VSOCK_PORT) -> socket.socket:
    """Wait for connections over vsock."""
    from sealpod.agent import modules

    modules.load(VSOCK_MODULE)
    try:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen(BACKLOG)
    except OSError as exc:
        text = f"this guest cannot be reached over vsock: {exc.strerror}"
        raise UnavailableError(text, code="agent.no-channel") from exc
    return listener


def accept(listener: socket.socket) -> socket.socket:
    """The host's next connection. Who else has found the port, as a container may, is turned away."""
    while True:
        connection, address = listener.accept()
        if listener.family != socket.AF_VSOCK or address[0] == HOST_CID:
            return connection
        connection.close()


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

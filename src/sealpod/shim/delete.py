# SPDX-License-Identifier: Apache-2.0
"""``delete``: clear what one container left; containerd runs it after every container, also the happy ones.

While the pod's shim lives, everything but this bundle's mounts is its business. It is told to end, which it
does only when it has no container left: one that a killed containerd forgot ends so. A pod whose shim is
dead, or hangs, is taken apart here, but only when the container is the pod's own: a member's end says nothing
about the pod. The answer says that the process was killed, which is all that can be known.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time

from sealpod.shim import bundle as bundles
from sealpod.shim import mounts, start
from sealpod.shim.arguments import Arguments
from sealpod.wire.taskapi import MESSAGES, TASK, timestamp
from sealpod.wire.ttrpc import HEADER_SIZE, REQUEST, Frame, Request, encode_frame

KILLED = 128 + signal.SIGKILL
# containerd waits five seconds for all of this.
ANSWER_SECONDS = 1.5
EXIT_SECONDS = 1.0


def delete(arguments: Arguments) -> bytes:
    """The ``DeleteResponse`` to print."""
    if not arguments.id:
        raise ValueError("delete needs -id")
    bundle = arguments.bundle or os.getcwd()
    mounts.detach(os.path.join(bundle, "rootfs"))
    if _is_pods_own(bundle):
        path = bundles.socket_path(arguments.address, arguments.namespace, arguments.id)
        if not is_serving(path, arguments.id):
            end_process(os.path.join(bundle, start.PID_FILE), arguments.id)
            _take_apart(arguments.id, path)
    response = MESSAGES.new("DeleteResponse", exit_status=KILLED, exited_at=timestamp(time.time_ns()))
    return response.encode()


def is_serving(path: str, pod: str, seconds: float = ANSWER_SECONDS) -> bool:
    """Whether a shim at ``path`` answers Shutdown; any answer will do."""
    payload = MESSAGES.new("ShutdownRequest", id=pod).encode()
    call = encode_frame(Frame(1, REQUEST, Request(TASK, "Shutdown", payload).encode()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(path)
            connection.sendall(call)
            return len(connection.recv(HEADER_SIZE)) > 0
        except OSError:
            return False


def end_process(pid_file: str, pod: str, seconds: float = EXIT_SECONDS) -> None:
    """Wait for the process of ``pid_file`` to go, then kill it. One that is no shim of the pod is let be."""
    with contextlib.suppress(OSError, ValueError, OverflowError):
        with open(pid_file, encoding="ascii") as file:
            pid = int(file.read(32))
        # The descriptor comes first: what is read of the process then belongs to the one that is killed.
        descriptor = os.pidfd_open(pid)
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read(65536).split(b"\0")
            if b"sealpod.shim" not in words or pod.encode() not in words:
                return
            if not select.select([descriptor], [], [], seconds)[0]:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select.select([descriptor], [], [], seconds)
        finally:
            os.close(descriptor)


def _is_pods_own(bundle: str) -> bool:
    try:
        return not bundles.is_member(bundles.annotations_of(bundles.read_config(bundle)))
    except (OSError, ValueError):
        return True  # a bundle that is half gone: the pod's traces are looked for by its id


def _take_apart(pod: str, path: str) -> None:
    from sealpod.sandbox.cleanup import clean_up

    clean_up(pod)
    start.remove(path)

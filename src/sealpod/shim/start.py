# SPDX-License-Identifier: Apache-2.0
"""``start``: make the pod's socket, start the serving process behind it, print the address.

containerd waits for this, so it imports almost nothing; the server's slower start is hidden behind the
socket, which takes connections from its first moment. A member of a pod gets the address of the shim that
runs already.
"""

from __future__ import annotations

import os
import socket
import sys

from sealpod.shim import bundle as bundles
from sealpod.shim.arguments import Arguments

LISTEN_FD = 3
BACKLOG = 64


def start(arguments: Arguments, runtime: str) -> str:
    """The address to print. OSError or ValueError says what failed."""
    bundle = os.getcwd()
    annotations = bundles.annotations_of(bundles.read_config(bundle))
    pod = bundles.pod_id(annotations, arguments.id)
    path = bundles.socket_path(arguments.address, arguments.namespace, pod)
    address = f"unix://{path}"
    if not bundles.is_member(annotations):
        listener = listen(path)
        if listener is not None:
            with listener:
                pid = _spawn(arguments, runtime, bundle, path, listener)
            _write(os.path.join(bundle, "shim.pid"), str(pid))
    _write(os.path.join(bundle, "address"), address)
    return address


def listen(path: str) -> socket.socket | None:
    """A listening socket at ``path``; None when a living shim has it. One left by a dead shim is replaced."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        try:
            listener.bind(path)
        except OSError:
            if answers(path):
                listener.close()
                return None
            os.unlink(path)
            listener.bind(path)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def answers(path: str) -> bool:
    """Whether somebody listens at ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _spawn(arguments: Arguments, runtime: str, bundle: str, path: str, listener: socket.socket) -> int:
    """Start the server; its process id. It holds nothing of ours but the socket."""
    command = [sys.executable, "-P", "-m", "sealpod.shim"]
    command += ["-namespace", arguments.namespace, "-address", arguments.address]
    command += ["-publish-binary", arguments.publish_binary, "-id", arguments.id]
    command += ["-bundle", bundle, "-socket", path, "-runtime", runtime]
    if arguments.debug:
        command.append("-debug")
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    number = listener.fileno()
    if number == LISTEN_FD:
        os.set_inheritable(number, True)
    else:
        actions.append((os.POSIX_SPAWN_DUP2, number, LISTEN_FD))  # type: ignore[arg-type]
    return os.posix_spawn(
        sys.executable, command, os.environ, file_actions=actions, setsid=True, setsigmask=()
    )


def _write(path: str, text: str) -> None:
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(text)
    os.replace(temporary, path)

# SPDX-License-Identifier: Apache-2.0
"""``start``: make the pod's socket, start the serving process behind it, print the address.

containerd waits for this, so it imports almost nothing; the server's slower start is hidden behind the
socket, which takes connections from its first moment. A member of a pod gets the address of the shim that
runs already. When something fails, neither socket nor process stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys

from sealpod.shim import bundle as bundles
from sealpod.shim.arguments import Arguments

LISTEN_FD = 3
BACKLOG = 64
PID_FILE = "shim.pid"
ADDRESS_FILE = "address"


def start(arguments: Arguments, runtime: str) -> str:
    """The address to print. OSError or ValueError says what failed."""
    if not arguments.id or not arguments.namespace or not arguments.address:
        raise ValueError("start needs -id, -namespace and -address")
    bundle = os.getcwd()
    annotations = bundles.annotations_of(bundles.read_config(bundle))
    pod = bundles.pod_id(annotations, arguments.id)
    path = bundles.socket_path(arguments.address, arguments.namespace, pod)
    address = f"unix://{path}"
    listener = None if bundles.is_member(annotations) else listen(path)
    if listener is None:
        _write(os.path.join(bundle, ADDRESS_FILE), address)
        return address
    pid = 0
    try:
        with listener:
            pid = _spawn(arguments, runtime, bundle, path, listener)
        _write(os.path.join(bundle, PID_FILE), str(pid))
        _write(os.path.join(bundle, ADDRESS_FILE), address)
    except BaseException:
        if pid:
            os.kill(pid, signal.SIGKILL)
        os.unlink(path)
        raise
    return address


def listen(path: str) -> socket.socket | None:
    """A listening socket at ``path``; None when a living shim has it. One left by a dead shim is replaced."""
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    # A socket is bound before it listens, and in between it looks dead: one start at a time.
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.lexists(path):
            if answers(path):
                return None
            remove(path)
        return _bind(path)
    finally:
        os.close(lock)


def _bind(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno or errno.ENAMETOOLONG, error.strerror or str(error), path) from error
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


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


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

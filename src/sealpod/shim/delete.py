# SPDX-License-Identifier: Apache-2.0
"""``delete``: clear what one container left; containerd runs it after every container, also the happy ones.

While the pod's shim lives, everything but this bundle's mounts is its business. A pod whose shim is dead is
taken apart here. The answer says that the process was killed, which is all that can be known.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from sealpod.shim import bundle as bundles
from sealpod.shim.arguments import Arguments
from sealpod.shim.start import answers
from sealpod.wire.taskapi import MESSAGES, timestamp

KILLED = 128 + signal.SIGKILL


def delete(arguments: Arguments) -> bytes:
    """The ``DeleteResponse`` to print."""
    bundle = arguments.bundle or os.getcwd()
    _unmount(os.path.join(bundle, "rootfs"))
    if _is_pods_own(bundle):
        path = bundles.socket_path(arguments.address, arguments.namespace, arguments.id)
        if not answers(path):
            _take_apart(arguments.id, path)
    response = MESSAGES.new("DeleteResponse", exit_status=KILLED, exited_at=timestamp(time.time_ns()))
    return response.encode()


def _is_pods_own(bundle: str) -> bool:
    try:
        return not bundles.is_member(bundles.annotations_of(bundles.read_config(bundle)))
    except (OSError, ValueError):
        return True  # a bundle that is half gone: the pod's traces are looked for by its id


def _take_apart(pod: str, path: str) -> None:
    from sealpod.sandbox.podvm import clean_up

    clean_up(pod)
    with contextlib.suppress(OSError):
        os.unlink(path)


def _unmount(target: str) -> None:
    if os.path.ismount(target):
        from sealpod.shim.mounts import detach

        detach(target)

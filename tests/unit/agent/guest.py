# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the guest: the agent's parts without PID 1's, serving the socket it inherits.

``guest.py DESCRIPTOR ROOT IMAGES``: images are directories below IMAGES, each with ``config.json`` (an image
configuration) and ``layers/0``, ``layers/1``, ... It runs as a process of its own because the agent waits for
all children of its process. Ends when the sandbox is destroyed or its socket closes.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
import threading

from sealpod.agent import syscalls
from sealpod.agent.console import Console
from sealpod.agent.namespaces import Namespaces
from sealpod.agent.reaper import Reaper
from sealpod.agent.runtime import Runtime
from sealpod.agent.sandbox import Sandbox
from sealpod.agent.server import Server
from sealpod.agent.service import Service
from sealpod.errors import NotFoundError
from sealpod.image.pull import PulledImage
from sealpod.oci.config import ImageConfig
from sealpod.oci.digest import Digest
from sealpod.oci.reference import ImageReference
from sealpod.wire.agentapi import AGENT

CLONE_NEWNS = 0x20000
CLONE_NEWUTS = 0x4000000
MS_PRIVATE_ALL = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE


def enter_own_mounts(root: str) -> None:
    """As in the guest: a tmpfs for what is written, and cgroup v2 alone. Mounts end with this process."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS | CLONE_NEWUTS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    syscalls.mount("none", "/", "", MS_PRIVATE_ALL)
    syscalls.mount("tmpfs", root, "tmpfs")
    syscalls.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")


def main() -> None:
    descriptor, root, images = int(sys.argv[1]), sys.argv[2], sys.argv[3]

    def pull(text: str) -> PulledImage:
        reference = ImageReference.parse(text)
        directory = os.path.join(images, reference.repository)
        if not os.path.isdir(directory):
            raise NotFoundError(f"no image {text}", code="image.not-found", remedy="push it")
        with open(os.path.join(directory, "config.json"), "rb") as file:
            config = ImageConfig.decode(file.read())
        # Unpacked anew by each pull, as the real one does it.
        place = tempfile.mkdtemp(dir=store)
        names = sorted(os.listdir(os.path.join(directory, "layers")), key=int)
        layers = tuple(os.path.join(place, name) for name in names)
        for name, layer in zip(names, layers, strict=True):
            shutil.copytree(os.path.join(directory, "layers", name), layer, symlinks=True)
        return PulledImage(reference, Digest.of(b""), config, layers, place)

    enter_own_mounts(root)
    store = os.path.join(root, "image")
    os.mkdir(store)
    syscalls.become_subreaper()
    reaper = Reaper()
    reaper.start()
    runtime = Runtime(reaper, state=os.path.join(root, "crun"), cgroups="disabled")
    sandbox = Sandbox(
        pull,
        reaper,
        runtime,
        root=root,
        resolv_conf=os.path.join(root, "guest-resolv.conf"),
        namespaces=Namespaces(os.path.join(root, "ns")),
    )
    destroyed = threading.Event()
    after = {(AGENT, "DestroySandbox"): destroyed.set}
    server = Server(descriptor, Service(sandbox).methods(), Console(debug=True), after=after)

    def serve() -> None:
        server.serve()
        destroyed.set()

    threading.Thread(target=serve, daemon=True).start()
    destroyed.wait()


if __name__ == "__main__":
    main()

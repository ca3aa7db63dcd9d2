# SPDX-License-Identifier: Apache-2.0
"""Debian's docker-registry, on loopback unless told otherwise, as a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from scripted import unused_port

PROGRAM = shutil.which("docker-registry")
CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: "{directory}"}}, delete: {{enabled: true}}}}
http: {{addr: "{host}:{port}"}}
"""


@contextmanager
def docker_registry(directory: str, host: str = "127.0.0.1") -> Iterator[str]:
    """A registry that keeps its files below ``directory``; its ``host:port``."""
    port = unused_port()
    path = os.path.join(directory, "registry.yml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(directory=os.path.join(directory, "data"), host=host, port=port))
    with open(os.path.join(directory, "registry.log"), "wb") as log:
        process = subprocess.Popen([str(PROGRAM), "serve", path], stdout=log, stderr=log)
    try:
        _wait(process, (host, port), os.path.join(directory, "registry.log"))
        yield f"{host}:{port}"
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], address: tuple[str, int], log: str) -> None:
    """Until it accepts connections: the one event it gives."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(address, timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                with open(log, encoding="utf-8", errors="replace") as file:
                    raise RuntimeError(f"docker-registry did not start: {file.read()}") from None
            time.sleep(0.02)

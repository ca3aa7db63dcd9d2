# SPDX-License-Identifier: Apache-2.0
"""Find and read the Kata configuration file of a pod, as Kata does.

In this order: the pod's annotation, the path containerd was configured with, the environment, two places in
the file system. A pod's owner may name a file, so a file is only taken from those who own this process.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Final

from sealpod.errors import AccessError, DecodeError, NotFoundError

ANNOTATION: Final = "io.katacontainers.config_path"
ENVIRONMENT: Final = "KATA_CONF_FILE"
LOCATIONS: Final = (
    "/etc/kata-containers/configuration.toml",
    "/usr/share/defaults/kata-containers/configuration.toml",
)
MAX_BYTES: Final = 1024 * 1024  # more than four times what is read of a file, in characters


def find_config(named: str, annotations: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> str:
    """Path of the configuration; empty when nothing names one and none is installed."""
    path = annotations.get(ANNOTATION) or named or environ.get(ENVIRONMENT, "")
    return path or next((path for path in LOCATIONS if os.path.exists(path)), "")


def read_config(path: str) -> str:
    """The file's text.

    :raise NotFoundError: it does not exist.
    :raise AccessError: it cannot be read.
    :raise DecodeError: it is too large or no text.
    """
    try:
        with open(path, "rb") as source:
            data = source.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DecodeError(f"{path} has more than {MAX_BYTES} bytes", code="config.size")
        return data.decode()
    except FileNotFoundError as error:
        raise NotFoundError(f"no such file: {path}", code="config.not-found") from error
    except OSError as error:
        raise AccessError(f"cannot read {path}: {error.strerror}", code="config.unreadable") from error
    except UnicodeDecodeError as error:
        raise DecodeError(f"{path} is not UTF-8", code="config.syntax") from error


def require_trusted(path: str) -> None:
    """Raise AccessError unless ``path`` is a file only this user or root can change."""
    try:
        info = os.stat(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"no such file: {path}", code="config.not-found") from error
    except OSError as error:
        raise AccessError(f"cannot read {path}: {error.strerror}", code="config.unreadable") from error
    owners = (0, os.geteuid())
    if not stat.S_ISREG(info.st_mode) or info.st_uid not in owners or stat.S_IMODE(info.st_mode) & 0o022:
        raise AccessError(
            f"{path} is no file that only root can change",
            code="config.untrusted",
            remedy=f"`chown root {path}` and `chmod go-w {path}`",
        )

# SPDX-License-Identifier: Apache-2.0
"""Where pulled images lie: a temporary directory while a pull runs, a number when it is done.

AccessError (``image.store-permission``) and OperationError (``image.store``) when the system refuses.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from sealpod.errors import AccessError, OperationError, SealpodError

TEMPORARY_PREFIX: Final = ".pull-"


def make_temporary(store: str) -> str:
    """A directory below ``store`` (made if missing) for a pull that is not done."""
    try:
        os.makedirs(store, mode=0o700, exist_ok=True)
        directory = os.path.join(store, TEMPORARY_PREFIX + os.urandom(8).hex())
        os.mkdir(directory, 0o700)
    except OSError as error:
        raise _store_error(store, error) from error
    return directory


def publish(directory: str, store: str) -> str:
    """Give the directory the first free number below ``store``, and say where it is now.

    Making the empty directory claims the number; rename replaces it at once.
    """
    number = 0
    while True:
        final = os.path.join(store, str(number))
        try:
            os.mkdir(final, 0o700)
            break
        except FileExistsError:
            number += 1
        except OSError as error:
            raise _store_error(store, error) from error
    os.rename(directory, final)
    return final


def _store_error(store: str, error: OSError) -> SealpodError:
    text = f"cannot write to the image store {store}: {os.strerror(error.errno or 0)}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessError(text, code="image.store-permission")
    return OperationError(text, code="image.store")


def remove_tree(directory: str) -> None:
    """Remove what a pull left; files may be read-only, links are not followed."""
    import shutil

    shutil.rmtree(directory, ignore_errors=True)

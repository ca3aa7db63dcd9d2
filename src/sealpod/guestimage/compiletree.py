# SPDX-License-Identifier: Apache-2.0
"""Replace Python sources by byte code, run by the guest's own interpreter: ``compiletree.py ROOT PREFIX``.

Each ``module.py`` below ROOT becomes ``module.pyc`` beside where it was (PEP 3147, "legacy" place: what the
importer looks for when there is no source), marked as never to be checked against a source (PEP 552). Code
objects name their file as it is called in the guest, PREFIX in front. The output depends on the sources and
the interpreter only, if hash randomisation is off: sets of constants are written in hash order. A source
that is a link is refused. This file is run, never imported by sealpod.
"""

import os
import py_compile
import sys

OPTIMIZATION = (
    1  # without assert statements; docstrings stay, for dataclasses would rebuild missing ones at import
)


def main(root: str, prefix: str) -> None:
    """Compile in sorted order, in one process, so that interned strings are the same each time."""
    sources = sorted(
        os.path.join(directory, name)
        for directory, _, names in os.walk(root)
        for name in names
        if name.endswith(".py")
    )
    for source in sources:
        if os.path.islink(source):  # an absolute one means the guest's root, but the builder's would be read
            raise ValueError(f"{source} is a link to {os.readlink(source)}")
        py_compile.compile(
            source,
            cfile=source + "c",
            dfile=prefix + source[len(root) :],
            doraise=True,
            optimize=OPTIMIZATION,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        os.unlink(source)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), sys.argv[2].rstrip("/"))

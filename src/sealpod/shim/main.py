# SPDX-License-Identifier: Apache-2.0
"""``containerd-shim-kata-v2`` and its siblings: start, delete, or serve.

containerd reads what ``start`` prints on standard output and standard error together: an address and nothing
else, or, with an exit status other than zero, the reason.
"""

from __future__ import annotations

import sys

from sealpod.shim.arguments import parse, runtime_of


def main(program: str | None = None, words: list[str] | None = None) -> int:
    """Entry point of the programs. Exit status 0, or 1 with one line that says why."""
    try:
        arguments = parse(sys.argv[1:] if words is None else words)
        runtime = arguments.runtime or runtime_of(sys.argv[0] if program is None else program)
        if arguments.version:
            from importlib.metadata import version

            sys.stdout.write(f"{runtime}:\n  Version:  {version('sealpod')}\n")
            return 0
        if arguments.action == "start":
            from sealpod.shim.start import start

            sys.stdout.write(start(arguments, runtime))
            return 0
        if arguments.action == "delete":
            from sealpod.shim.delete import delete

            sys.stdout.buffer.write(delete(arguments))
            return 0
        if arguments.action or not arguments.socket:
            sys.stderr.write("this program is containerd's to start: see `sealpod sandbox` for pods\n")
            return 2
        from sealpod.shim.serve import serve

        return serve(arguments, runtime)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"sealpod: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""``containerd-shim-kata-v2`` and its siblings: start, delete, or serve.

containerd reads what ``start`` prints on standard output and standard error together: an address and nothing
else, or, with an exit status other than zero, the reason. Every import beyond the arguments waits until it is
known what is asked.
"""

from __future__ import annotations

import sys

from sealpod.shim.arguments import Arguments, parse, runtime_of

USAGE = "this program is containerd's to start: `sealpod sandbox` shows the pods it runs"


def main(program: str | None = None, words: list[str] | None = None) -> int:
    """Entry point of the programs. Exit status 0; 1 with one line that says why; 2 for a wrong command."""
    try:
        arguments = parse(sys.argv[1:] if words is None else words)
        runtime = arguments.runtime or runtime_of(sys.argv[0] if program is None else program)
        return _run(arguments, runtime)
    except Exception as error:  # noqa: BLE001 (containerd shows the line to whoever started the pod)
        sys.stderr.write(f"sealpod: {describe(error)}\n")
        return 1


def describe(error: Exception) -> str:
    """One line. The text of an exception that nobody expected may quote anything; its type does not."""
    from sealpod.errors import SealpodError

    if isinstance(error, SealpodError):
        return error.one_line()
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) if isinstance(error, OSError | ValueError) else f"unexpected {type(error).__name__}"


def _run(arguments: Arguments, runtime: str) -> int:
    if arguments.version:
        from importlib.metadata import version

        sys.stdout.write(f"{runtime}:\n  Version:  {version('sealpod')}\n")
    elif arguments.info:
        from sealpod.shim.info import runtime_info

        sys.stdout.buffer.write(runtime_info(runtime))
    elif arguments.action == "start":
        from sealpod.shim.start import start

        sys.stdout.write(start(arguments, runtime))
    elif arguments.action == "delete":
        from sealpod.shim.delete import delete

        sys.stdout.buffer.write(delete(arguments))
    elif arguments.action or not arguments.socket:
        sys.stderr.write(f"sealpod: {USAGE}\n")
        return 2
    else:
        from sealpod.shim.serve import serve

        return serve(arguments, runtime)
    return 0


if __name__ == "__main__":
    sys.exit(main())

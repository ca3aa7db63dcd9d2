# SPDX-License-Identifier: Apache-2.0
"""``python -m sealpod.platform.model --state DIR --fd N``: the model's process; see :mod:`.server`."""

from __future__ import annotations

import argparse
import sys


def main() -> int:
    """Parse the two options and serve."""
    parser = argparse.ArgumentParser(
        prog="sealpod.platform.model", description="Software SEV firmware. Started by sealpod itself."
    )
    parser.add_argument("--state", required=True, metavar="DIR", help="where the platform's keys are kept")
    parser.add_argument("--fd", required=True, type=int, metavar="N", help="inherited SOCK_SEQPACKET socket")
    args = parser.parse_args()
    from sealpod.platform.model.server import run

    return run(args.state, args.fd)


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests."""

from __future__ import annotations

import os
import signal

# Tests start programs while gRPC's threads run. Its handlers for forks are for processes that go on with
# gRPC in the child; in one that only executes a program they may fail, and with them the program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# A script's background processes ignore interrupts, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

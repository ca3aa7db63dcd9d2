# SPDX-License-Identifier: Apache-2.0
"""What holds for all tests."""

from __future__ import annotations

import os

# Tests start programs while gRPC's threads run. Its handlers for forks are for processes that go on with
# gRPC in the child; in one that only executes a program they may fail, and with them the program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

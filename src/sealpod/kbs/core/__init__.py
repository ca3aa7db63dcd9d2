# SPDX-License-Identifier: Apache-2.0
"""What the key broker decides and what it hands out. No gRPC, no SQL, no clock of its own."""

# SPDX-License-Identifier: Apache-2.0
"""The demonstration: real registry, real broker, real guests, five scenarios, one report."""

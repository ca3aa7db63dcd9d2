# SPDX-License-Identifier: Apache-2.0
"""The key broker's records in a SQL database: simple-kbs' tables, and a few of ours beside them."""

# SPDX-License-Identifier: Apache-2.0
"""The key owner's side of the broker: what there is to manage (:mod:`.nouns`), tried and suggested policies.

The commands and the HTTP API are two ways to the same entries. Importing these needs no database.
"""

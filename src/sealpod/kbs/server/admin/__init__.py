# SPDX-License-Identifier: Apache-2.0
"""The key owner's side of the broker: the admin verbs, and the HTTP API that offers them."""

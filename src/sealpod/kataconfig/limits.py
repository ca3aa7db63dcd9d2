# SPDX-License-Identifier: Apache-2.0
"""How long a runtime waits where the configuration does not say: what 0, or no key, stands for.

Kata's own defaults (30, later 90 s to reach the agent, 60 s to make a container) are for guests on silicon
whose images are there already. A number that is given is obeyed, whatever it is.
"""

from __future__ import annotations

from typing import Final

DIAL_SECONDS: Final = 120
"""``dial_timeout``: an emulated guest on a loaded machine needs tens of seconds until its agent answers."""
CREATE_SECONDS: Final = 600
"""``create_container_timeout``: the guest pulls, decrypts and unpacks the container's image in it."""

# SPDX-License-Identifier: Apache-2.0
"""``python3 -m sealpod.shim``: the serving process."""

from __future__ import annotations

import sys

from sealpod.shim.main import main

sys.exit(main())

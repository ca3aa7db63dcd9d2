# SPDX-License-Identifier: Apache-2.0
"""The edits guides have for Kata's ``configuration-qemu-sev.toml``, done by sed itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

SHIPPED = Path(__file__).parents[2] / "deploy" / "kata" / "configuration-qemu-sev.toml"
SHIPPED_PLAIN = SHIPPED.with_name("configuration-qemu.toml")
CONNECTION = "1ee27366-0c87-43a6-af48-28543eaf7cb0"
BUNDLE = "e6f5a162-d67f-4750-a67c-5d065f2a9910"
SIGNATURES = "agent.enable_signature_verification=false "


def sed(path: Path, expression: str) -> None:
    """``sed -i``."""
    subprocess.run(["sed", "-i", expression, str(path)], check=True)


def online(path: Path, broker: str) -> None:
    """Tell the guest where the key broker is: behind the signature's word and the blank after it."""
    sed(path, f"s/{SIGNATURES}/&agent.aa_kbc_params=online_sev_kbc::{broker}/")


def offline(path: Path) -> None:
    """Have the keys themselves injected instead of a connection."""
    sed(path, f"s/{CONNECTION}/{BUNDLE}/")
    sed(path, "s/connection/bundle/")

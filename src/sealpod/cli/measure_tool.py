# SPDX-License-Identifier: Apache-2.0
"""The options sev-snp-measure has, so that what its users abbreviate means the same to ``sealpod measure``.

argparse takes any beginning of an option that fits no other; an option of ours must not make one ambiguous.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

FORMATS: Final = ("hex", "base64")
_TOOLS_OPTIONS: Final = (
    "--help",
    "--version",
    "--verbose",
    "--mode",
    "--vcpus",
    "--vcpu-type",
    "--vcpu-sig",
    "--vcpu-family",
    "--vcpu-model",
    "--vcpu-stepping",
    "--vmm-type",
    "--ovmf",
    "--kernel",
    "--initrd",
    "--append",
    "--guest-features",
    "--output-format",
    "--snp-ovmf-hash",
    "--dump-vmsa",
    "--svsm",
    "--vars-size",
    "--vars-file",
)


def adapt(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """The arguments with abbreviations of the tool's options written out, as the tool takes them."""
    adapted = list(argv)
    for at, argument in enumerate(argv):
        if argument == "--":
            break
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or name in _TOOLS_OPTIONS:
            continue
        # --output is an option of ours and an abbreviation of the tool's; their values tell which is meant.
        if name == "--output" and (value if equals else "".join(argv[at + 1 : at + 2])) not in FORMATS:
            continue
        meant = [option for option in _TOOLS_OPTIONS if option.startswith(name)]
        if len(meant) > 1:
            parser.error(f"ambiguous option: {argument} could match {', '.join(meant)}")
        if meant:
            adapted[at] = meant[0] + equals + value
    return adapted

# SPDX-License-Identifier: Apache-2.0
"""``sealpod kbs``: run the key broker, and manage what it may release.

What the key owner manages is :mod:`.kbs_nouns`; ``serve``, ``audit`` and the database's upkeep are modules of
their own.
"""

from __future__ import annotations

import argparse
from typing import Final

from sealpod.cli import kbs_audit, kbs_doctor, kbs_migrate, kbs_nouns, kbs_seal, kbs_serve
from sealpod.cli.kbs_common import DATABASE_VARIABLE, refuse_mixed_options

HELP: Final = "Run the key broker; manage secrets, keysets and policies"
EPILOG: Final = f"""\
A key owner's session:
  export {DATABASE_VARIABLE}=sqlite:////var/lib/sealpod/kbs.db
  sealpod kbs policy set my-guest --digest "$(sealpod measure --mode sev --ovmf F --kernel K --initrd I \\
      --append C --output-format base64)"
  sealpod kbs secret set key_id1 --from-file key.bin --policy my-guest
  sealpod kbs keyset set KEYSET-1 --secret key_id1 --policy my-guest
  sealpod kbs serve --listen 0.0.0.0:44444
Changes take effect at once; the tables are simple-kbs', so its SQL statements work too.
"""


_MODULES: Final = (kbs_serve, kbs_nouns, kbs_audit, kbs_seal, kbs_migrate, kbs_doctor)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Subcommands of ``sealpod kbs``."""
    parser.epilog = EPILOG
    nouns = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in _MODULES:
        module.add_commands(nouns)


def run(args: argparse.Namespace) -> int:
    """Run what the subcommand chose."""
    if hasattr(args, "server"):
        refuse_mixed_options(args)
        if args.server is not None:
            from sealpod.cli import kbs_admin_remote

            return kbs_admin_remote.run(args)
    status: int = args.action(args)
    return status

# SPDX-License-Identifier: Apache-2.0
"""The configuration that the options of ``sealpod kbs serve`` come to."""

from __future__ import annotations

import argparse
import math
import os
from typing import TYPE_CHECKING, Final

from sealpod.cli.kbs_common import kek_sources
from sealpod.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from sealpod.kbs.server.config import AdminConfig, ServerConfig, TlsFiles

RESOURCES: Final = "resources"
"""simple-kbs' directory of resources, looked for in the working directory."""


def server_config(args: argparse.Namespace, database: str | URL) -> ServerConfig:
    """:raise UsageError: options that do not go together."""
    from sealpod.kbs.core.limits import Limits
    from sealpod.kbs.server.config import ConnectionLimits, RateLimit, ServerConfig
    from sealpod.kbs.server.defaultpolicy import FILE_NAME
    from sealpod.kbs.store.environment import max_connections

    return ServerConfig(
        listen=args.listen,
        database=database,
        keks=kek_sources(args),
        pool=max_connections(os.environ),
        migrate=args.migrate,
        sealed_connections=args.sealed_connections,
        trust_arks=tuple(args.trust_arks),
        amd_roots=not args.no_amd_roots,
        default_policy_file=args.default_policy or (FILE_NAME if os.path.exists(FILE_NAME) else None),
        resources=args.resources or (RESOURCES if os.path.isdir(RESOURCES) else None),
        limits=Limits(
            launch_ttl=args.launch_ttl,
            max_launches=args.max_launches,
            connection_ttl=args.connection_ttl or math.inf,
            chain_cache=args.chain_cache,
        ),
        tls=_tls(args, "tls"),
        guest_listen=args.guest_listen,
        rate=RateLimit(args.rate_limit, args.rate_burst),
        connections=ConnectionLimits(connections=args.max_connections),
        reflection=not args.no_reflection,
        ops_listen=args.ops_listen,
        admin=_admin(args),
        wait_for_database=args.wait_for_database,
        drain_delay=args.drain_delay,
        audit_webhook=args.audit_webhook,
        audit_webhook_token=args.audit_webhook_token,
    )


def _tls(args: argparse.Namespace, prefix: str) -> TlsFiles | None:
    from sealpod.kbs.server.config import TlsFiles

    option = prefix.replace("_", "-")
    certificate, key, authority = (getattr(args, f"{prefix}_{part}") for part in ("cert", "key", "client_ca"))
    if (certificate is None) != (key is None):
        raise UsageError(f"--{option}-cert and --{option}-key go together", code="tls.options")
    if certificate is None:
        if authority is not None:
            raise UsageError(
                f"--{option}-client-ca needs --{option}-cert and --{option}-key", code="tls.options"
            )
        return None
    return TlsFiles(certificate, key, authority)


def _admin(args: argparse.Namespace) -> AdminConfig | None:
    from sealpod.kbs.server.config import AdminConfig

    tls = _tls(args, "admin_tls")
    if args.admin_listen is None:
        if tls is not None or args.admin_token_file is not None:
            raise UsageError("options of the admin API without --admin-listen", code="admin.options")
        return None
    return AdminConfig(args.admin_listen, args.admin_token_file, tls)

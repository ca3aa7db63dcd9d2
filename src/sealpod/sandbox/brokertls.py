# SPDX-License-Identifier: Apache-2.0
"""TLS from a host to its key broker: whom the host believes, and what it shows of itself.

The files are those of an operator: PEM, the key this user's alone. Only the authorities that are named count,
not the machine's. The guest's own client stays plain: what it is answered is sealed with a key of its own
(:mod:`sealpod.kbc.online`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sealpod.errors import AccessError, UsageError

if TYPE_CHECKING:
    import ssl

ALPN: Final = "h2"
"""gRPC's name for HTTP/2 in the handshake."""
CA_VARIABLE: Final = "SEALPOD_BROKER_CA"
CERT_VARIABLE: Final = "SEALPOD_BROKER_CERT"
KEY_VARIABLE: Final = "SEALPOD_BROKER_KEY"


@dataclass(frozen=True, slots=True)
class BrokerTls:
    """PEM files by path. ``certificate`` is empty where the broker asks for none; ``key`` is empty where the
    certificate's file has it too."""

    authorities: str
    certificate: str = ""
    key: str = ""

    @classmethod
    def of(cls, authorities: str, certificate: str, key: str) -> BrokerTls | None:
        """None where nothing is named: the broker is spoken to in plain HTTP/2.

        :raise UsageError: a certificate without authorities, or a key without its certificate.
        """
        if not authorities and (certificate or key):
            raise UsageError(
                "a certificate for the key broker, but no authorities to believe it by",
                code="tls.options",
                remedy=f"give --kbs-ca FILE, or {CA_VARIABLE}",
            )
        if key and not certificate:
            raise UsageError(
                "a key for the key broker without its certificate",
                code="tls.options",
                remedy=f"give --kbs-cert FILE, or {CERT_VARIABLE}",
            )
        return cls(authorities, certificate, key) if authorities else None

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] = os.environ) -> BrokerTls | None:
        """As the environment says. :raise UsageError: as :meth:`of`."""
        names = (CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE)
        return cls.of(*(environ.get(name, "") for name in names))

    def context(self) -> ssl.SSLContext:
        """For HTTP/2, as of now: files are read anew for each launch.

        :raise SealpodError: as :func:`client_context`.
        """
        return client_context(self.authorities, self.certificate, self.key, alpn=ALPN)


def client_context(
    authorities: str | None, certificate: str = "", key: str = "", *, alpn: str = ""
) -> ssl.SSLContext:
    """A client's context: TLS 1.2 or later, the peer's name is compared. None for ``authorities`` takes the
    machine's.

    :raise AccessError: others than this user can read the key. :raise UsageError: a file cannot be used.
    """
    # Late: most pods have no use for it, and it would stay in the memory of each one's shim.
    import ssl

    try:
        context = ssl.create_default_context(cafile=authorities)
        if authorities:
            # Python 3.13 has begun to refuse what RFC 5280 does not allow authorities to leave out, and what
            # `openssl req -x509` does, and to believe in intermediates by themselves. The files an operator
            # names mean the same under every Python: what OpenSSL, and so the broker itself, makes of them.
            context.verify_flags &= ~(ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)
        if certificate:
            _check_private(key or certificate)
            # An empty passphrase: OpenSSL would ask for one on the terminal.
            context.load_cert_chain(certificate, key or None, password="")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"certificates cannot be read ({type(error).__name__})",
            code="tls.certificate",
            remedy="give files in PEM form, with a key that is not under a passphrase",
        ) from None
    if alpn:
        context.set_alpn_protocols([alpn])
    return context


def tls_failure(error: BaseException | None) -> str:
    """Why there is no TLS, in OpenSSL's words; empty if it is not for that."""
    import ssl

    if not isinstance(error, ssl.SSLError):
        return ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or "broken off").replace("_", " ").lower()


def _check_private(path: str) -> None:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        raise AccessError(
            f"{path!r} (TLS key) can be read or changed by others (mode {mode:04o})",
            code="kbs.file-mode",
            remedy="make it this user's alone: chmod 600",
        )

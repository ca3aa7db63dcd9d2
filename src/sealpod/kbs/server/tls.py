# SPDX-License-Identifier: Apache-2.0
"""TLS for both listeners: gRPC's credentials, and an SSL context for HTTP.

The files are checked before they are used (certificate and key belong together, the authorities are
certificates), so that a mistake is told at the start, and a renewal half-written is not taken. Both
listeners take what the files say at each new connection. TLS 1.2 is the least.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from sealpod.errors import DecodeError, UsageError
from sealpod.kbs.server.config import TlsFiles
from sealpod.kbs.server.files import Watched, read_file, read_private
from sealpod.secret import SecretBytes

ALPN: Final = ("http/1.1",)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a listener shows, and whom it believes; PEM."""

    certificate: bytes
    key: SecretBytes
    client_ca: bytes | None
    not_after: datetime


class Credentials:
    """The TLS files of one listener, followed as they change."""

    def __init__(self, files: TlsFiles) -> None:
        """:raise SealpodError: a file is missing, readable by others, or not what it should be."""
        self.files = files
        paths = (files.certificate, files.key, *(() if files.client_ca is None else (files.client_ca,)))
        self._watched = Watched(paths, lambda: read_identity(files))

    def identity(self) -> Identity:
        """As of now."""
        return self._watched.get()

    def not_after(self) -> float:
        """When the certificate ends, seconds since the epoch."""
        return self.identity().not_after.timestamp()

    def reload(self) -> None:
        """Read the files again, changed or not."""
        self._watched.reload()

    def for_grpc(self) -> grpc.ServerCredentials:
        """Credentials that ask :meth:`identity` at each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self.identity()),
            lambda: _configuration(self.identity()),
            require_client_authentication=self.files.client_ca is not None,
        )

    def for_http(self) -> ssl.SSLContext:
        """A context that takes :meth:`identity` at each handshake."""
        context = _context(self.identity())
        kept: dict[str, Any] = {"identity": self.identity(), "context": context}

        def renew(session: ssl.SSLObject, _name: str | None, _context_: ssl.SSLContext) -> None:
            # Called at every handshake, with or without a server name.
            identity = self.identity()
            if identity is not kept["identity"]:
                kept.update(identity=identity, context=_context(identity))
            session.context = kept["context"]

        context.sni_callback = renew
        return context


def read_identity(files: TlsFiles) -> Identity:
    """:raise SealpodError: as :class:`Credentials`."""
    certificate = read_file(files.certificate, "TLS certificate")
    key = SecretBytes(read_private(files.key, "TLS key"))
    leaf = _certificates(certificate, files.certificate)[0]
    if _public(load_key(key, files.key)) != _public(leaf):
        raise UsageError(
            f"the TLS key {files.key!r} is not the one of the certificate {files.certificate!r}",
            code="tls.pair",
            remedy="give the files that were made together",
        )
    authority = None
    if files.client_ca is not None:
        authority = read_file(files.client_ca, "client authorities")
        _certificates(authority, files.client_ca)
    return Identity(certificate, key, authority, leaf.not_valid_after_utc)


def share_authorities(one: TlsFiles | None, other: TlsFiles | None) -> bool:
    """Whether an authority signs callers of both listeners. :raise SealpodError: a file cannot be read."""
    paths = [None if files is None else files.client_ca for files in (one, other)]
    first, second = (
        set() if path is None else set(_certificates(read_file(path, "client authorities"), path))
        for path in paths
    )
    return bool(first & second)


def _certificates(pem: bytes, path: str) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise DecodeError(
            f"no certificates in {path!r}", code="tls.certificate", remedy="give a file in PEM form"
        ) from None


def load_key(pem: SecretBytes, path: str) -> Any:
    """:raise DecodeError: not a private key, or one under a passphrase."""
    try:
        return load_pem_private_key(pem.reveal(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The parser's words may quote what it read.
        raise DecodeError(
            f"no private key in {path!r}",
            code="tls.key",
            remedy="give a file in PEM form, with a key that is not under a passphrase",
        ) from None


def _public(holder: Any) -> bytes:
    raw: bytes = holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return raw


def _configuration(identity: Identity) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key.reveal(), identity.certificate)], root_certificates=identity.client_ca
    )


def _context(identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(ALPN))
    with _in_memory(identity.certificate + b"\n" + identity.key.reveal()) as path:
        context.load_cert_chain(path)
    if identity.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=identity.client_ca.decode("ascii"))
    return context


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path to these bytes: Python takes certificate and key as files only, and what the operator's files
    say may have changed since they were read and found good."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    with open(descriptor, "wb", buffering=0) as file:
        file.write(data)
        yield f"/proc/self/fd/{descriptor}"

# SPDX-License-Identifier: Apache-2.0
"""What a failed connection to a registry means: whether to try again, and what its owner can do."""

from __future__ import annotations

import errno
import http.client
import socket

from sealpod.errors import OperationError, RefusedError, SealpodError, UnavailableError, VerificationError

Failure = (OSError, http.client.HTTPException)


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed in a moment: the connection broke, or nothing came for long."""
    if isinstance(error, ConnectionRefusedError | socket.gaierror):
        return False
    if isinstance(error, OSError) and type(error).__module__ == "ssl":
        return False
    return isinstance(error, ConnectionError | TimeoutError | http.client.HTTPException)


def explain(authority: str, error: Exception) -> SealpodError:
    """A failure of the connection to ``authority`` as an error with a remedy."""
    if isinstance(error, OSError) and type(error).__module__ == "ssl":
        return _explain_tls(authority, error)
    if isinstance(error, ConnectionRefusedError):
        return _unreachable(
            authority, "connection refused", "start it, or correct host and port in the image's name"
        )
    if isinstance(error, socket.gaierror):
        return _unreachable(
            authority, "the name does not resolve", "correct the host in the image's name, or the DNS"
        )
    if isinstance(error, TimeoutError):
        return _unreachable(
            authority, "no answer in time", "check the network and the registry, then try again"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return _unreachable(authority, "no route to it", "check the network")
    if isinstance(error, http.client.HTTPException | ConnectionError):
        text = str(error) or type(error).__name__
        return _unreachable(authority, f"the connection broke: {text}", "try again")
    return OperationError(
        f"talking to the registry {authority} failed: {error}",
        code="registry.connection",
        remedy="check the network, then try again",
    )


def _unreachable(authority: str, why: str, remedy: str) -> UnavailableError:
    return UnavailableError(
        f"the registry {authority} is not reachable: {why}", code="registry.unreachable", remedy=remedy
    )


def _explain_tls(authority: str, error: OSError) -> SealpodError:
    reason = str(getattr(error, "reason", "")) or str(error)
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason or "HTTP_REQUEST" in reason:
        return RefusedError(
            f"the registry {authority} speaks plain HTTP, which is not allowed for it",
            code="registry.plain-http",
            remedy="serve it with TLS, or list it as an insecure registry",
        )
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        detail = str(getattr(error, "verify_message", "")) or "it does not verify"
        return VerificationError(
            f"the certificate of the registry {authority} is not trusted: {detail}",
            code="registry.certificate",
            remedy="add its authority to the system's trusted certificates",
        )
    return _unreachable(authority, f"TLS failed: {reason}", "check that the registry speaks TLS on this port")

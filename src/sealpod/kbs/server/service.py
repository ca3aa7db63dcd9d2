# SPDX-License-Identifier: Apache-2.0
"""``keybroker.KeyBrokerService`` over gRPC: messages in, calls to the core, messages or a status out.

Every failure has status INTERNAL and simple-kbs' text, because its clients look for both; trailing metadata
``sealpod-code`` and ``sealpod-remedy`` say more to those who read it. Requests are decoded here rather than
by gRPC, so that malformed ones get the same treatment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError as MalformedMessage
from google.protobuf.message import Message

from sealpod.errors import DecodeError, SealpodError
from sealpod.kbs.core.broker import KeyBroker, SecretClaim
from sealpod.kbs.core.request import RawRequest
from sealpod.wire.pb import keybroker_pb2 as pb

SERVICE: Final = "keybroker.KeyBrokerService"
CODE_KEY: Final = "sealpod-code"
REMEDY_KEY: Final = "sealpod-remedy"
MAX_REMEDY: Final = 512
"""Characters of a remedy in metadata; gRPC allows 8 KiB for all of it."""
MAX_DETAILS: Final = 1024
"""Characters of a status text; it travels as a header too."""

_logger = logging.getLogger(__name__)

Request = TypeVar("Request", bound=Message)


class Context(Protocol):
    """What the handlers use of gRPC's servicer context."""

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None: ...

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn: ...


def handlers(broker: KeyBroker) -> grpc.GenericRpcHandler:
    """The service, to be added to a gRPC server."""

    def unary(message: type[Request], call: Callable[[KeyBroker, Request], Message]) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            lambda raw, context: _answer(message, call, broker, raw, context),
            request_deserializer=None,
            response_serializer=None,
        )

    methods = {
        "GetBundle": unary(pb.BundleRequest, _get_bundle),
        "GetSecret": unary(pb.SecretRequest, _get_secret),
        "GetOnlineSecret": unary(pb.OnlineSecretRequest, _get_online_secret),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _answer(
    message: type[Request],
    call: Callable[[KeyBroker, Request], Message],
    broker: KeyBroker,
    raw: bytes,
    context: Context,
) -> bytes:
    try:
        reply: bytes = call(broker, _decode(message, raw)).SerializeToString()
    except SealpodError as error:
        _abort(context, error.message, error.code, error.remedy)
    except Exception as error:
        _logger.error("%s failed on a %s", message.__name__, type(error).__name__)
        _logger.debug("%s failed", message.__name__, exc_info=_without_text(error))
        _abort(context, "internal error", "internal.error", "See the key broker's log")
    return reply


def _abort(context: Context, text: str, code: str, remedy: str) -> NoReturn:
    context.set_trailing_metadata(((CODE_KEY, code), (REMEDY_KEY, _ascii(remedy)[:MAX_REMEDY])))
    context.abort(grpc.StatusCode.INTERNAL, " ".join(text.split())[:MAX_DETAILS])


def _without_text(error: BaseException) -> BaseException:
    # An exception's text may quote the data it failed on; its type and its frames do not.
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)


def _ascii(text: str) -> str:
    # gRPC refuses metadata with other characters, and with it the whole status.
    return "".join(char if " " <= char <= "~" else "?" for char in text).strip()


def _decode(message: type[Request], raw: bytes) -> Request:
    try:
        return message.FromString(raw)
    except MalformedMessage:
        raise DecodeError(
            f"Malformed {message.__name__}",
            code="request.malformed",
            remedy="Send the message keybroker.proto describes",
        ) from None


def _get_bundle(broker: KeyBroker, request: pb.BundleRequest) -> pb.BundleResponse:
    bundle = broker.get_bundle(request.CertificateChain, request.Policy)
    return pb.BundleResponse(
        GuestOwnerPublicKey=bundle.godh, LaunchBlob=bundle.session, LaunchId=bundle.launch_id
    )


def _get_secret(broker: KeyBroker, request: pb.SecretRequest) -> pb.SecretResponse:
    claim = SecretClaim(
        launch_id=request.LaunchId,
        policy=request.Policy,
        api_major=request.ApiMajor,
        api_minor=request.ApiMinor,
        build_id=request.BuildId,
        digest=request.FwDigest,
        measurement=request.LaunchMeasurement,
        description=request.LaunchDescription,
        requests=_requests(request.SecretRequests),
    )
    sealed = broker.get_secret(claim)
    return pb.SecretResponse(LaunchSecretHeader=sealed.header, LaunchSecretData=sealed.data)


def _get_online_secret(broker: KeyBroker, request: pb.OnlineSecretRequest) -> pb.OnlineSecretResponse:
    reply = broker.get_online_secret(request.ClientId, _requests(request.SecretRequests))
    return pb.OnlineSecretResponse(Payload=reply.payload, IV=reply.iv)


def _requests(details: Iterable[pb.RequestDetails]) -> tuple[RawRequest, ...]:
    return tuple(RawRequest(one.Guid, one.Format, one.SecretType, one.Id) for one in details)

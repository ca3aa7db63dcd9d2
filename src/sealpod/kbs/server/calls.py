# SPDX-License-Identifier: Apache-2.0
"""The calls of ``keybroker.KeyBrokerService`` as messages: what each asks of the core, and its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError as MalformedMessage
from google.protobuf.message import Message

from sealpod.errors import DecodeError
from sealpod.kbs.core.audit import Caller
from sealpod.kbs.core.broker import KeyBroker
from sealpod.kbs.core.messages import SecretClaim
from sealpod.kbs.core.request import RawRequest
from sealpod.wire.pb import keybroker_pb2 as pb

SERVICE: Final = pb.DESCRIPTOR.services_by_name["KeyBrokerService"].full_name
GUEST_METHODS: Final = ("GetOnlineSecret",)
"""What a guest asks for; its answers are sealed with the key of its connection."""

Request = TypeVar("Request", bound=Message)
Call = Callable[[KeyBroker, Any, Caller], Message]


def decode(message: type[Request], raw: bytes) -> Request:
    try:
        return message.FromString(raw)
    except MalformedMessage:
        raise DecodeError(
            f"Malformed {message.__name__}",
            code="request.malformed",
            remedy="send the message keybroker.proto describes",
        ) from None


def _get_bundle(broker: KeyBroker, request: pb.BundleRequest, caller: Caller) -> pb.BundleResponse:
    bundle = broker.get_bundle(request.CertificateChain, request.Policy, caller=caller)
    return pb.BundleResponse(
        GuestOwnerPublicKey=bundle.godh, LaunchBlob=bundle.session, LaunchId=bundle.launch_id
    )


def _get_secret(broker: KeyBroker, request: pb.SecretRequest, caller: Caller) -> pb.SecretResponse:
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
    sealed = broker.get_secret(claim, caller=caller)
    return pb.SecretResponse(LaunchSecretHeader=sealed.header, LaunchSecretData=sealed.data)


def _get_online_secret(
    broker: KeyBroker, request: pb.OnlineSecretRequest, caller: Caller
) -> pb.OnlineSecretResponse:
    reply = broker.get_online_secret(request.ClientId, _requests(request.SecretRequests), caller=caller)
    return pb.OnlineSecretResponse(Payload=reply.payload, IV=reply.iv)


def _requests(details: Iterable[pb.RequestDetails]) -> tuple[RawRequest, ...]:
    return tuple(
        RawRequest(one.Guid, one.Format, one.SecretType, one.Id, one.Nonce, one.Audience) for one in details
    )


CALLS: Final[tuple[tuple[str, type[Message], Call], ...]] = (
    ("GetBundle", pb.BundleRequest, _get_bundle),
    ("GetSecret", pb.SecretRequest, _get_secret),
    ("GetOnlineSecret", pb.OnlineSecretRequest, _get_online_secret),
)
METHODS: Final = tuple(name for name, _message, _call in CALLS)

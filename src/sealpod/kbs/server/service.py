# SPDX-License-Identifier: Apache-2.0
"""``keybroker.KeyBrokerService`` over gRPC: messages in, calls to the core, messages or a status out.

Every failure of a call has status INTERNAL and simple-kbs' text, because its clients look for both; trailing
metadata ``sealpod-code`` and ``sealpod-remedy`` say more to those who read it. Requests are decoded here
rather than by gRPC, so that malformed ones get the same treatment. A call that is turned away before it is
looked at has gRPC's own status for that.

On the wire the calls are unary. Here they are taken as streams of one message, because gRPC hands over a
stream at its headers: the peer is known, places are counted and the message has a time limit before any of
it is kept. The work is done by a few threads, which a slow caller never holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from contextvars import copy_context
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import Message

from sealpod.errors import DeadlineError, SealpodError, UnavailableError
from sealpod.kbs.core.audit import Caller
from sealpod.kbs.core.broker import KeyBroker
from sealpod.kbs.server.admission import Admission, peer_host
from sealpod.kbs.server.calls import CALLS, METHODS, SERVICE, Call, decode
from sealpod.kbs.server.logs import REQUEST_HEADER, begin_request
from sealpod.kbs.server.metrics import Metrics

CODE_KEY: Final = "sealpod-code"
REMEDY_KEY: Final = "sealpod-remedy"
REQUEST_KEY: Final = "sealpod-request"
MAX_REMEDY: Final = 512
"""Characters of a remedy in metadata; gRPC allows 8 KiB for all of it."""
MAX_DETAILS: Final = 1024
"""Characters of a status text; it travels as a header too."""

_logger = logging.getLogger(__name__)

Context = Any  # grpc.aio.ServicerContext, which has no types


class Service:
    """The three calls. ``broker`` gives the broker to ask, anew for each call."""

    def __init__(
        self,
        broker: Callable[[], KeyBroker],
        *,
        admission: Admission,
        metrics: Metrics,
        workers: Executor,
        request_seconds: float,
    ) -> None:
        self._broker = broker
        self._admission = admission
        self._metrics = metrics
        self._workers = workers
        self._request_seconds = request_seconds
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def until_idle(self) -> None:
        """Return when no call is open: each has had its answer sent, or was turned away."""
        await self._idle.wait()

    def _admit(self, context: Context, host: str) -> None:
        """Hold a place until the call is over: an answer nobody takes is memory too.

        :raise UnavailableError: there is none.
        """
        place = ExitStack()
        place.enter_context(self._admission.admitted(host))
        context.add_done_callback(lambda _context: place.close())

    def _opened(self, context: Context) -> None:
        self._open += 1
        self._idle.clear()
        context.add_done_callback(self._closed)

    def _closed(self, _context: object) -> None:
        self._open -= 1
        if not self._open:
            self._idle.set()

    def handlers(self, methods: Collection[str] = METHODS) -> grpc.GenericRpcHandler:
        """The service, to be added to a gRPC server of an event loop; these of its calls."""
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(self._handler(name, message, call))
            for name, message, call in CALLS
            if name in methods
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _handler(
        self, name: str, message: type[Message], call: Call
    ) -> Callable[[Any, Context], Awaitable[bytes]]:
        async def handle(_messages: Any, context: Context) -> bytes:
            self._opened(context)
            request = begin_request(_header(context, REQUEST_HEADER))
            caller = Caller(context.peer(), _identity(context), request)
            try:
                self._admit(context, peer_host(caller.peer))
                with self._metrics.timed(name):
                    raw = await self._read(context)
                    reply = await self._work(message, call, raw, caller)
            except _TurnedAway as turned:
                self._metrics.turned_away(turned.error.code.partition(".")[2])
                await _abort(context, turned.status, turned.error, request)
            except UnavailableError as error:
                # Of the admission: what the broker raises comes as _Failed.
                self._metrics.turned_away(error.code.partition(".")[2])
                await _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, error, request)
            except _Failed as failed:
                await _abort(context, grpc.StatusCode.INTERNAL, failed.error, request)
            context.set_trailing_metadata(((REQUEST_KEY, request),))
            return reply

        return handle

    async def _read(self, context: Context) -> bytes:
        try:
            async with asyncio.timeout(self._request_seconds):
                raw = await context.read()
        except TimeoutError:
            error = DeadlineError("the request did not come in time", code="kbs.slow")
            raise _TurnedAway(grpc.StatusCode.DEADLINE_EXCEEDED, error) from None
        # A stream that ends without a message is a call with an empty one to a unary method's caller: none.
        return raw if isinstance(raw, bytes) else b""

    async def _work(self, message: type[Message], call: Call, raw: bytes, caller: Caller) -> bytes:
        def work() -> bytes:
            try:
                reply: bytes = call(self._broker(), decode(message, raw), caller).SerializeToString()
            except SealpodError as error:
                raise _Failed(error) from None
            except Exception as error:
                _logger.error("%s failed on a %s", message.__name__, type(error).__name__)
                _logger.debug("%s failed", message.__name__, exc_info=_without_text(error))
                raise _Failed(SealpodError("internal error", remedy="see the key broker's log")) from None
            return reply

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, copy_context().run, work)


class _Failed(Exception):
    """A call that ends in a status."""

    def __init__(self, error: SealpodError) -> None:
        super().__init__(error.code)
        self.error = error


class _TurnedAway(_Failed):
    """A call that was not looked at."""

    def __init__(self, status: grpc.StatusCode, error: SealpodError) -> None:
        super().__init__(error)
        self.status = status


async def _abort(context: Context, status: grpc.StatusCode, error: SealpodError, request: str) -> NoReturn:
    remedy = _ascii(error.remedy)[:MAX_REMEDY]
    context.set_trailing_metadata(((CODE_KEY, error.code), (REMEDY_KEY, remedy), (REQUEST_KEY, request)))
    await context.abort(status, " ".join(error.message.split())[:MAX_DETAILS])
    raise error  # abort() has raised


def _header(context: Context, name: str) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == name and isinstance(value, str):
            return value
    return None


def _identity(context: Context) -> str:
    """The name in the caller's certificate, if it showed one; TLS has verified it."""
    names: Sequence[bytes] = context.auth_context().get("x509_common_name", ())
    return _ascii(names[0].decode("utf-8", "replace")) if names else ""


def _without_text(error: BaseException) -> BaseException:
    # An exception's text may quote the data it failed on; its type and its frames do not.
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)


def _ascii(text: str) -> str:
    # gRPC refuses metadata with other characters, and with it the whole status.
    return "".join(char if " " <= char <= "~" else "?" for char in text).strip()

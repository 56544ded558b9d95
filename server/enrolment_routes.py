"""The enrolment route of the fleet port: what strangers may ask, little of it at a time.

It shows the certificate of the TLS authority and the federation's public keys, takes requests of members that were
invited, renews certificates, and lets members leave. Whoever asks proves by signatures who it is; nothing else is
believed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tacit.models.enrolment import (
    AUTHORITIES_PATH,
    AUTHORITY_PATH,
    FEDERATION_PATH,
    LARGEST_REQUEST,
    LEAVE_PATH,
    MEMBER_PATH,
    RENEWAL_PATH,
    Authorities,
    EnrolmentRequest,
    LeaveRequest,
    RenewalRequest,
)
from tacit.privacy.errors import RemoteProtocolError
from tacit.privacy.identity import Certificate
from tacit.server.enrolment import EnrolmentRefused
from tacit.server.gate import Gone, Limits, Receive, Refusal, Scope, Send, body, check_length, reply
from tacit.server.membership import Membership
from tacit.server.store import StoreUnavailable

_LOG = logging.getLogger(__name__)
AT_A_TIME = 4


class EnrolmentRoutes:
    """The application below `/v1/enrol/`.

    Args:
        membership: decides and keeps.
        ca_der: the certificate of the TLS authority that vouches for this server.
        authorities: the TLS authorities that members are to trust from now on.
        enrolled: is told of every certificate that is handed out, before its member hears of it.
        left: is told when a member has left, before it hears of it.
        limits: what one request may take.
    """

    def __init__(
        self,
        membership: Membership,
        ca_der: bytes,
        *,
        authorities: Callable[[], tuple[bytes, ...]] | None = None,
        enrolled: Callable[[Certificate], None] = lambda certificate: None,
        left: Callable[[], None] = lambda: None,
        limits: Limits | None = None,
    ) -> None:
        """Answer nothing yet."""
        self._membership = membership
        self._ca_der = ca_der
        self._authorities = authorities or (lambda: (ca_der,))
        self._enrolled = enrolled
        self._left = left
        self._limits = limits or Limits()
        self._turn = asyncio.Semaphore(AT_A_TIME)  # strangers may keep a few threads busy, and no more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        try:
            status, content, kind = 200, await self._answer(scope, receive), b"application/octet-stream"
        except EnrolmentRefused as refused:
            _LOG.warning("an enrolment was refused: %s", refused)
            status, content, kind = 403, str(refused).encode(), b"text/plain; charset=utf-8"
        except Refusal as refusal:
            await reply(send, refusal.status, str(refusal).encode(), close=True)
            return
        except StoreUnavailable as error:
            _LOG.error("an enrolment could not be kept: %s", error)
            await reply(send, 503, b"try again later", close=True)
            return
        except Gone:
            return
        headers = [(b"content-length", str(len(content)).encode()), (b"content-type", kind)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        match scope["path"]:
            case str(path) if path == AUTHORITY_PATH:
                _require(scope, "GET")
                return self._ca_der
            case str(path) if path == AUTHORITIES_PATH:
                _require(scope, "GET")
                return Authorities(self._authorities()).encode()
            case str(path) if path == FEDERATION_PATH:
                _require(scope, "GET")
                return self._membership.registrar.describe(self._membership.now()).encode()
            case str(path) if path == MEMBER_PATH:
                return await self._decide(await self._body(scope, receive), self._enrol)
            case str(path) if path == RENEWAL_PATH:
                return await self._decide(await self._body(scope, receive), self._renew)
            case str(path) if path == LEAVE_PATH:
                return await self._decide(await self._body(scope, receive), self._leave)
        raise Refusal(404)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        _require(scope, "POST")
        check_length(scope, LARGEST_REQUEST)
        return b"".join([piece async for piece in body(receive, self._limits, LARGEST_REQUEST)])

    async def _decide(self, content: bytes, decide: Callable[[bytes], bytes]) -> bytes:
        async with self._turn:
            try:
                return await asyncio.to_thread(decide, content)
            except RemoteProtocolError as error:
                raise Refusal(400, str(error)) from None

    def _enrol(self, content: bytes) -> bytes:
        certificate = self._membership.enrol(EnrolmentRequest.decode(content))
        self._enrolled(certificate)
        return certificate.encode()

    def _renew(self, content: bytes) -> bytes:
        certificate = self._membership.renew(RenewalRequest.decode(content))
        self._enrolled(certificate)
        return certificate.encode()

    def _leave(self, content: bytes) -> bytes:
        self._membership.leave(LeaveRequest.decode(content))
        self._left()
        return b""


def _require(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise Refusal(405)

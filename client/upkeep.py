"""What keeps an agent a member while it runs: certificates are renewed, and new TLS authorities learnt, unasked."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from tacit.client.connection import Address, TurnedAway, Unreachable, is_news
from tacit.client.directory import AgentDirectory
from tacit.client.enrolled import ENROLMENT, Enrolled, read_enrolled, write_enrolled
from tacit.client.enrolment import RENEW_BEFORE, refresh, renew
from tacit.client.proxy import proxy_to
from tacit.models.errors import InputError
from tacit.models.key_file import read_identity
from tacit.privacy.identity import Certificate, Identity

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Care:
    """How often an agent looks after its enrolment, in seconds.

    Attributes:
        news: after which it asks which TLS authorities to trust.
        retry: after a failure, at most; sooner where a certificate is soon to end.
        nap: after which it looks at the clock and at its file at the latest, as machines sleep too.
    """

    news: float = 6 * 3600.0
    retry: float = 900.0
    nap: float = 60.0


def enrolment_of(directory: AgentDirectory, now: float) -> Enrolled:
    """Return what an agent keeps of its enrolment, `now` in seconds since 1970.

    Raises:
        InputError: it is no member yet, or its certificate has ended.
    """
    enrolled = read_enrolled(directory.path / ENROLMENT, directory.identity)
    if enrolled is None:
        raise InputError(
            "is no member of a federation yet", where=f"agent {directory.path}", right="tacit agent enrol --token TOKEN"
        )
    if ended(enrolled.certificate, now):
        raise InputError(has_ended(enrolled.certificate), where=f"agent {directory.path}")
    return enrolled


class Upkeep:
    """One agent's enrolment while the agent runs; `enrolled` and `address` may be read from any thread.

    A certificate is renewed at some moment in the first half of the last third of its life, drawn for each one, so that
    members that enrolled together do not renew together, and the second half is left for what goes wrong. What another
    process writes into the enrolment's file takes effect too.

    Args:
        directory: the agent's.
        enrolled: what it keeps of its enrolment so far.
        renewed: is told of every new certificate.
        insecure: do without TLS, which only an address of the loopback may.
        care: how often to look.
        clock: seconds since 1970.
        draw: returns a number between two others.

    Raises:
        InputError: the way to the coordinator cannot be used.
    """

    def __init__(
        self,
        directory: AgentDirectory,
        enrolled: Enrolled,
        renewed: Callable[[Certificate], None] = lambda certificate: None,
        *,
        insecure: bool = False,
        care: Care | None = None,
        clock: Callable[[], float] = time.time,
        draw: Callable[[float, float], float] | None = None,
    ) -> None:
        """Ask for nothing yet."""
        self._directory = directory
        self._renewed = renewed
        self._insecure = insecure
        self._care = care or Care()
        self._clock = clock
        self._draw = draw or random.SystemRandom().uniform
        self._stopped = threading.Event()
        self._next = 0.0  # when to ask again, in seconds since 1970
        self._failed = False
        self._trouble = ""
        self._take(enrolled)

    @property
    def enrolled(self) -> Enrolled:
        """Return the enrolment as it is now."""
        return self._enrolled

    @property
    def address(self) -> Address:
        """Return where the coordinator is, and how its certificate is checked from now on."""
        return self._address

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look after the enrolment from a thread of its own within the block."""
        thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()

    def turn(self) -> float:
        """Do what is due, and return after how many seconds to look again."""
        self._take_over()
        if (now := self._clock()) >= self._due_at:
            self._ask(now)
        return min(max(self._due_at - self._clock(), 0.01), self._care.nap)

    @property
    def _due_at(self) -> float:
        return self._next if self._failed else min(self._next, self._renew_at)

    def _run(self) -> None:
        while not self._stopped.wait(self.turn()):
            continue

    def _ask(self, now: float) -> None:
        current, due = self._enrolled, now >= self._renew_at
        try:
            current = refresh(current, proxy=self._address.proxy, insecure=self._insecure)
            self._keep(current)
            if due:
                self._keep(self._renewal(current))
        except (Unreachable, TurnedAway, InputError) as error:
            self._say(self._told(error, due))
            self._next = now + self._draw(0.5, 1.0) * min(self._care.retry, self._span / 20)
            self._failed = True
            return
        self._next = now + self._draw(0.7, 1.0) * self._care.news
        self._failed = False
        if self._trouble:
            _LOG.warning("the enrolment is in order again")
            self._trouble = ""

    def _renewal(self, current: Enrolled) -> Enrolled:
        organisation = self._organisation(current.certificate)
        renewed = renew(
            current, self._directory.identity, organisation=organisation, proxy=self._address.proxy,
            insecure=self._insecure, clock=self._clock,
        )  # fmt: skip
        _LOG.info("the certificate is renewed until %s", _date(renewed.certificate.expires_at))
        return renewed

    def _organisation(self, certificate: Certificate) -> Identity | None:
        """Return the key that must sign for this member, beside its own; None if it is its own."""
        if certificate.organisation_key == certificate.subject_key:
            return None
        path = self._directory.organisation_key
        key = None if path is None else read_identity(path)
        if key is None or key.public_key != certificate.organisation_key:
            raise InputError(
                f"needs the key of {certificate.organisation}",
                where="renewal",
                right="organisation_key in settings.toml, or `tacit agent renew --organisation-key FILE`",
            )
        return key

    def _keep(self, current: Enrolled) -> None:
        """Use an enrolment, once it is on disk."""
        if current != self._enrolled:
            write_enrolled(self._directory.path / ENROLMENT, current)
            self._take(current)

    def _take_over(self) -> None:
        """Use what another process has written, if it is newer."""
        try:
            kept = read_enrolled(self._directory.path / ENROLMENT, self._directory.identity)
        except InputError as error:
            self._say(str(error))
            return
        if kept is not None and kept.certificate.expires_at > self._enrolled.certificate.expires_at:
            self._take(kept)

    def _take(self, enrolled: Enrolled) -> None:
        host, port = enrolled.address
        proxy = proxy_to(host, self._directory.settings.proxy, os.environ)
        self._address = Address(host, port, None if self._insecure else enrolled.tls, proxy)
        self._enrolled = enrolled
        self._span = RENEW_BEFORE * enrolled.federation.certificate_seconds
        until = enrolled.certificate.expires_at or math.inf
        self._renew_at = until - self._draw(0.5, 1.0) * self._span
        self._renewed(enrolled.certificate)

    def _told(self, error: Exception, due: bool) -> str:
        certificate, now = self._enrolled.certificate, self._clock()
        if ended(certificate, now):
            return f"{has_ended(certificate)} ({error})"
        if due:
            return f"the certificate ends on {_date(certificate.expires_at)} and is not renewed yet: {error}"
        return f"the coordinator was not asked for news: {error}"

    def _say(self, trouble: str) -> None:
        if is_news(trouble, self._trouble) and not self._stopped.is_set():
            _LOG.warning("%s; trying again", trouble)
        self._trouble = trouble


def ended(certificate: Certificate, now: float) -> bool:
    """Return whether a certificate has ended."""
    return bool(certificate.expires_at) and now >= certificate.expires_at


def has_ended(certificate: Certificate) -> str:
    """Return in one line that a certificate has ended, and what to do."""
    return (
        f"the certificate of {certificate.client} ended on {_date(certificate.expires_at)} by this machine's clock; ask"
        f" the operator for `tacit coordinator invite --name {certificate.client} --again`, stop the agent, and enrol"
    )


def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"

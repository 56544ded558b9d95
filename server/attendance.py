"""Who is there: a run waits for its members before each attempt, as long as it takes, and is told who was away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from tacit.models.recipe import Recipe
from tacit.server.attempts import RunFailed, RunStopped
from tacit.server.flower import VANISHED
from tacit.server.kept_run import Stopped
from tacit.server.membership import Membership
from tacit.server.reports import RoundReport
from tacit.server.run_queue import members_for
from tacit.server.superlink import SuperLink

_LOG = logging.getLogger(__name__)
RECONNECT_SECONDS = 45.0  # in which every agent that is still alive has asked a coordinator that was away
FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 5.0, 600.0  # before whoever vanished again is asked again

Enough = Callable[[int], int]
"""The fewest of so many members that rounds can be made of."""


def nobody_asked() -> str:
    """Return that nobody asks for a run to end."""
    return ""


@dataclass(frozen=True)
class Attendance:
    """The members of a federation that are there, for a coordinator that waits for them.

    Attributes:
        membership: who may take part.
        link: the fleet port.
        until: says when to stop; whatever waits then raises `Stopped`.
        pause: waits some seconds, or less when it is to stop.
        clock: seconds, for patience.
        now: seconds since 1970, for who was seen when.
    """

    membership: Membership
    link: SuperLink
    until: Callable[[], bool]
    pause: Callable[[float], object]
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time

    def there(self) -> frozenset[str]:
        """Return who is there."""
        return frozenset(name for name, one in self.link.presence().items() if one.online)

    def gather(
        self,
        recipe: Recipe,
        patience: float,
        enough: Enough | None = None,
        stop: Callable[[], str] = nobody_asked,
    ) -> int:
        """Wait until as many members are there as a round needs, and return how many.

        Args:
            recipe: says how many.
            patience: seconds after which fewer will do, if rounds can be made of them.
            enough: the fewest of so many that rounds can be made of, for a run that has begun: it waits for these as
                long as it takes. None for one that has not: it fails when the patience ends.
            stop: asked again and again: why a run is to end, or not to begin; empty to go on.

        Raises:
            RunFailed: they did not come in time.
            RunStopped: the run was told to end before it began.
            Stopped: the coordinator is to stop.
        """
        needed = members_for(recipe)
        begun, told = self.clock(), False
        while not self.until():
            self.membership.bring(self.link)
            there = len(self.there())
            if there >= needed:
                return there
            if asked := stop():
                if enough is None:
                    raise RunStopped(asked)
                return there
            if self.clock() > begun + patience:
                if enough is None:
                    raise RunFailed(f"{there} of {needed} clients were there after {patience:g} s")
                if there >= enough(needed):
                    return there
            if not told:
                _LOG.info("%d of %d clients are there; waiting", there, needed)
                told = True
            self.pause(0.5)
        raise Stopped

    def reconnect(self, recipe: Recipe, enough: Enough, asked: Collection[str]) -> None:
        """Wait until a run can go on: for whoever is being asked, and then for as many as a round can be made of.

        In this order: whoever goes while others are waited for must not make the run fail for want of members.

        Raises:
            Stopped: the coordinator is to stop.
        """
        # Not for long: whoever has died will not come.
        self._wait(RECONNECT_SECONDS, lambda: self.there().issuperset(asked))
        self.gather(recipe, RECONNECT_SECONDS, enough)

    def ready(
        self,
        recipe: Recipe,
        enough: Enough,
        stop: Callable[[], str],
        failed: RoundReport | None,
        lost: int,
    ) -> bool:
        """Wait until an attempt can be made; see `tacit.server.attempts.Ready`.

        Between two rounds a few who are away do not matter. After an attempt that failed everybody is waited for, with
        patience, and as many as rounds can be made of without end: a line that breaks takes everybody away at once.

        Raises:
            Stopped: the coordinator is to stop.
        """
        self.membership.bring(self.link)
        patience = min(recipe.training.deadline_seconds, RECONNECT_SECONDS)
        if failed is None:
            if len(self.there()) < recipe.secure_aggregation.min_cohort:
                self.gather(recipe, patience, enough, stop)
            return False
        self._look_for({one.client for one in failed.participants if one.outcome == "late"}, stop)
        vanished = {one.client for one in failed.participants if one.outcome == "dropped" and one.reason in VANISHED}
        away = len(self.there() - vanished) < enough(members_for(recipe))  # also if they are back by now
        self.gather(recipe, patience, enough, stop)
        if away and lost:
            seconds = min(FIRST_REST_SECONDS * 2 ** (lost - 1), LONGEST_REST_SECONDS)
            _LOG.warning("clients vanished from %d attempts in a row; the next one is in %g s", lost + 1, seconds)
            self._wait(seconds, lambda: bool(stop()))
        return away

    def _look_for(self, silent: Collection[str], stop: Callable[[], str]) -> None:
        """Wait until it shows who of those that were late is away: one that is there asks again before long."""
        since = self.now()

        def shows() -> bool:
            presence = self.link.presence()
            unknown = (one for name in silent if (one := presence.get(name)) is not None and one.online)
            return bool(stop()) or all(one.seen is not None and one.seen >= since for one in unknown)

        self._wait(RECONNECT_SECONDS, shows)

    def _wait(self, seconds: float, happened: Callable[[], bool]) -> None:
        deadline = self.clock() + seconds
        while not happened() and self.clock() < deadline:
            if self.until():
                raise Stopped
            self.pause(0.2)

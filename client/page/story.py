"""What an agent's account tells, added up entry by entry: runs, messages that left, refusals, the owner's own doings.

What is kept here does not grow with the account but for eight bytes a message: whoever wants the whole of it reads the
account itself.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from tacit.client.audit import Detail, Noted
from tacit.privacy.terms import Place

LONGEST_TEXT = 80  # characters of what a coordinator calls something
LONGEST_REASON = 240
MOST_RUNS = 200
MOST_CODES = 40  # kinds of refusals of one run; there are fewer, unless a later version has more
MOST_DOINGS = 12
DOINGS = ("enrolled", "policy-read", "data-added", "data-removed", "paused", "resumed", "left")
"""Kinds of entries that the owner caused."""
INPUTS = ("mask", "train", "contribute")
"""Messages that carry what was learned from the data."""


@dataclass
class Refused:
    """Refusals of one run for one reason.

    Attributes:
        code: the stable word for the reason.
        reason: the reason of the last one.
        count: how many there were.
        at: when the last one was, in seconds since 1970.
    """

    code: str
    reason: str = ""
    count: int = 0
    at: float = 0.0


@dataclass
class Ran:
    """One run, as far as this agent knows it.

    Attributes:
        run: its name.
        began, at: its first and its last entry, in seconds since 1970.
        asked: what its last offer said: name, model, data and so on, as the account has them.
        accepted: how many offers were accepted.
        given: in how many training rounds something learned from the data has left.
        prepared: whether sums over the data have left before the training.
        newest: the last of those rounds.
        survivors: how many members the last sum had that is known; 0 if none is.
        receipts: how many sums the coordinator has signed a receipt for.
        refused: the refusals, by code.
    """

    run: str
    began: float
    at: float
    asked: Mapping[str, Detail] = field(default_factory=dict)
    accepted: int = 0
    given: int = 0
    prepared: bool = False
    newest: int = 0
    survivors: int = 0
    receipts: int = 0
    refused: dict[str, Refused] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Return how many rounds the run is to have; 0 if it was not said."""
        return 1 if self.evaluates else number(self.asked, "rounds")

    @property
    def evaluates(self) -> bool:
        """Say whether the run measures a model on the data, and trains none."""
        return bool(text(self.asked, "evaluates"))


@dataclass
class Sent:
    """Messages of one kind.

    Attributes:
        count: how many.
        bytes: all of them together.
    """

    count: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Kind:
    """What makes messages one kind to an owner.

    Attributes:
        what: the step of the protocol.
        preparation: whether it carries sums over the data, from before there is a model.
        masked: whether it carries something of the data under masks.
        noise: where the noise in it is made: distributed, local or central; empty for none.
        evaluates: whether it carries figures of a model that is not trained.
    """

    what: str
    preparation: bool = False
    masked: bool = False
    noise: str = ""
    evaluates: bool = False


@dataclass
class Story:
    """All that was told so far.

    Attributes:
        runs: the newest runs, by name.
        forgotten: how many older ones there were.
        sent: messages by kind.
        places: where in the account's file each message that left is.
        refusals: how often each code was the reason.
        doings: the owner's last doings.
        enrolled: when the agent last became a member, by its name in the federation.
        policy: the hash of the policy that an agent read last.
        entries: how many entries there were.
        last: when the last one was.
    """

    runs: dict[str, Ran] = field(default_factory=dict)
    forgotten: int = 0
    sent: dict[Kind, Sent] = field(default_factory=dict)
    places: array[int] = field(default_factory=lambda: array("q"))
    refusals: Counter[str] = field(default_factory=Counter)
    doings: deque[Noted] = field(default_factory=lambda: deque(maxlen=MOST_DOINGS))
    enrolled: dict[str, float] = field(default_factory=dict)
    policy: str = ""
    entries: int = 0
    last: float = 0.0
    _offers: dict[str, str] = field(default_factory=dict)

    def add(self, noted: Noted, place: int) -> None:
        """Take one more entry, which begins at an offset of the account's file."""
        self.entries, self.last = noted.counter, noted.at
        match noted.kind:
            case "offer-accepted":
                self._accept(noted)
            case "offer-refused" | "round-failed":
                self._refuse(noted, text(noted.details, "code") or "refused")
            case "receipt-refused":
                self._refuse(noted, "receipt")
            case "message-left":
                self._leave(noted, place)
            case "receipt-accepted":
                self._receive(noted)
            case "ledger-spent":
                self._spend(noted)
            case kind if kind in DOINGS:
                self._do(noted)

    def kind_of(self, details: Mapping[str, Detail]) -> Kind:
        """Return the kind of a message that left."""
        ran = self.runs.get(text(details, "run"))
        asked = ran.asked if ran is not None else {}
        what, preparation = text(details, "what"), number(details, "round") == 0
        if what not in (*INPUTS, "prepare"):
            return Kind(what)
        place = text(asked, "place")
        noise = place if place in get_args(Place) and not preparation else ""
        evaluates = not preparation and what in INPUTS and ran is not None and ran.evaluates
        return Kind(what, preparation, asked.get("masked") is True, noise, evaluates)

    def _ran(self, noted: Noted) -> Ran:
        name = text(noted.details, "run")
        if name not in self.runs:
            self.runs[name] = Ran(name, began=noted.at, at=noted.at)
            while len(self.runs) > MOST_RUNS:
                del self.runs[next(iter(self.runs))]
                self.forgotten += 1
        ran = self.runs[name]
        ran.at = noted.at
        return ran

    def _accept(self, noted: Noted) -> None:
        ran = self._ran(noted)
        # The preparation's offer has no noise: what the training's said stays.
        ran.asked = {**ran.asked, **noted.details}
        ran.accepted += 1
        if offer := text(noted.details, "offer"):
            self._offers[offer] = ran.run
            while len(self._offers) > MOST_RUNS:
                del self._offers[next(iter(self._offers))]

    def _refuse(self, noted: Noted, code: str) -> None:
        ran = self._ran(noted)
        ran.asked = {**noted.details, **ran.asked}
        self.refusals[code] += 1
        if code in ran.refused or len(ran.refused) < MOST_CODES:
            refused = ran.refused.setdefault(code, Refused(code))
            refused.reason = text(noted.details, "reason", LONGEST_REASON)
            refused.count, refused.at = refused.count + 1, noted.at

    def _leave(self, noted: Noted, place: int) -> None:
        ran, round_number, kind = self._ran(noted), number(noted.details, "round"), self.kind_of(noted.details)
        sent = self.sent.setdefault(kind, Sent())
        sent.count, sent.bytes = sent.count + 1, sent.bytes + number(noted.details, "bytes")
        self.places.append(place)
        if kind.what in INPUTS and round_number > ran.newest:
            ran.given, ran.newest = ran.given + 1, round_number
        if kind.preparation:
            ran.prepared = True

    def _receive(self, noted: Noted) -> None:
        run = self._offers.pop(text(noted.details, "offer"), "")
        if run in self.runs:
            self.runs[run].receipts += 1

    def _spend(self, noted: Noted) -> None:
        self._ran(noted).survivors = number(noted.details, "survivors")

    def _do(self, noted: Noted) -> None:
        if noted.kind == "enrolled":
            self.enrolled[text(noted.details, "name")] = noted.at
        if noted.kind == "policy-read":
            self.policy = text(noted.details, "sha256")
        self.doings.append(noted)


def text(details: Mapping[str, Detail], name: str, most: int = LONGEST_TEXT) -> str:
    """Return a detail that is text, cut in length; empty if it is none."""
    value = details.get(name)
    if not isinstance(value, str):
        return ""
    return value if len(value) <= most else value[: most - 1] + "…"


def number(details: Mapping[str, Detail], name: str) -> int:
    """Return a detail that is a whole number from 0; 0 if it is none."""
    value = details.get(name)
    return value if type(value) is int and value > 0 else 0

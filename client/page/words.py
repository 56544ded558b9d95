"""What the page says, in words for somebody who knows nothing of machine learning."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tacit.client.asked import CODES
from tacit.client.page.story import Kind, Ran, number, text
from tacit.privacy.records import Column
from tacit.privacy.terms import Unit

ALL_BUT_CERTAIN: Final = "all but certain"
QUIET_SECONDS = 900.0  # after which a run that sends nothing is no longer called under way

MESSAGES: Final[Mapping[str, tuple[str, str]]] = {
    "advertise": (
        "Keys for one round",
        "Public keys that were made for this round alone. They say nothing of your data.",
    ),
    "share": (
        "Sealed parts of keys",
        "Parts of this round's keys, each encrypted for one other member, so that a sum can be finished when a member "
        "drops out. They say nothing of your data.",
    ),
    "mask": ("Model update", "How the model would change by learning from your data: a long list of numbers."),
    "sign": ("A signature", "Confirms which members are in the sum. It says nothing of your data."),
    "unmask": (
        "Parts of keys to finish a sum",
        "What the coordinator needs to take the masks off the sum of all members, and off no single one.",
    ),
    "prepare": (
        "Counts and sums",
        "How many rows there are, and sums over them, from which the model's scales and categories follow.",
    ),
    "train": ("Model update", "How the model would change by learning from your data: a long list of numbers."),
    "contribute": ("Model update", "How the model would change by learning from your data: a long list of numbers."),
}
"""Title and meaning of each message that leaves, by the step that it answers."""

EVALUATION: Final = ("Figures of a model", "How a model does on your data: counts and sums of its hits and errors.")
"""Title and meaning of an answer that measures a model and trains none."""

CLAUSES: Final[Mapping[str, str]] = {
    "schedule": "schedule",
    "not-masked": "secure_aggregation.required",
    "cohort-floor": "secure_aggregation.min_cohort",
    "colluders-floor": "secure_aggregation.max_colluders",
    "graph": "secure_aggregation.accept_regular_graph",
    "evaluation-not-allowed": "approved.evaluations",
    "recipe-not-approved": "approved.recipes",
    "code-not-approved": "approved.code",
    "statistic-not-allowed": "approved.statistics",
    "metric-not-allowed": "approved.metrics",
    "unit-none": "privacy.accept_unprotected",
    "unit-other": "privacy.required_unit",
    "noise-place": "privacy.noise_places",
    "noise-floor": "privacy.min_noise_multiplier",
    "delta-ceiling": "privacy.delta",
    "promised-noise": "privacy.accept_promised_noise",
    "no-budget": "privacy.epsilon_total",
    "epsilon-run": "privacy.epsilon_per_run",
    "epsilon-total": "privacy.epsilon_total",
    "rounds-limit": "limits.max_rounds",
    "parameters-limit": "limits.max_parameters",
    "local-work-limit": "limits.max_local_epochs",
    "device": "limits.devices",
    "participations-limit": "limits.max_participations",
}
"""The key of the policy behind each code; the codes that are missing come from no clause."""

DOINGS: Final[Mapping[str, str]] = {
    "enrolled": "The agent became a member of the federation.",
    "policy-read": "The agent was started, and read the policy.",
    "data-added": "A data set was registered.",
    "data-removed": "A data set was taken away.",
    "paused": "You paused the agent.",
    "resumed": "You let the agent go on.",
    "left": "The agent left the federation.",
}


@dataclass(frozen=True)
class Outcome:
    """How a run stands.

    Attributes:
        state: one of `given`, `going`, `part`, `refused`, `asked`.
        title: the same in a word or two.
        sentence: more of it.
    """

    state: str
    title: str
    sentence: str


def outcome(ran: Ran, now: float) -> Outcome:
    """Say what became of a run here; whether its model was finished, only the coordinator knows."""
    rounds = f"{ran.given} of {ran.rounds} rounds" if ran.rounds else counted(ran.given, "round")
    refused = max(ran.refused.values(), key=lambda refused: refused.at, default=None)
    last = f" Then: {meaning(refused.code)}" if refused is not None and refused.at >= ran.at else ""
    if ran.evaluates and ran.given:
        return Outcome("given", "Measured", "A model was measured on your data; nothing was learned from them.")
    if ran.rounds and ran.given >= ran.rounds:
        return Outcome("given", "Took part", f"Your agent took part in all {counted(ran.rounds, 'round')}.")
    if refused is not None and not ran.given and refused.at >= ran.at:
        kept = "The sums for the preparation had left before." if ran.prepared else "Nothing of your data left for it."
        return Outcome("refused", "Refused", f"{meaning(refused.code)} {kept}")
    if now - ran.at < QUIET_SECONDS and not last:
        return Outcome("going", "Under way", f"Your agent took part in {rounds} so far.")
    if ran.given:
        return Outcome("part", "Took part", f"Your agent took part in {rounds}.{last}")
    kept = "The sums for the preparation left." if ran.prepared else "Nothing of your data left for it."
    return Outcome("asked", "Not begun", f"An offer was accepted, and no round followed. {kept}")


def protection(kind: Kind) -> tuple[str, str]:
    """Return how a message was protected: in one or two words, and in a sentence."""
    if kind.what in ("advertise", "sign"):
        return "Signed", "Not secret, and signed with your agent's key."
    if kind.what in ("share", "unmask"):
        if kind.what == "share":
            return "Encrypted", "Each part can be read by the one member that it is for, not by the coordinator."
        return "Split", "A part is worth nothing by itself: several members must give theirs for the same sum."
    if kind.what not in MESSAGES:
        return "Unknown", "This page does not know messages of this kind: ask who looks after your agent."
    if kind.masked:
        mask = "Nobody can read it alone, the coordinator included: only the sum over several members can be read."
        if kind.noise:
            return "Masked, with noise", f"{mask} {_NOISE[kind.noise]}"
        exact = kind.preparation or kind.evaluates
        return "Masked", f"{mask} {'The sum itself is exact: no noise is in it.' if exact else _NO_NOISE}"
    if kind.noise == "local":
        return "With noise", "It was not masked. Noise that hides single rows was added on this machine before it left."
    return "Not masked", f"The coordinator could read it. {_NOISE.get(kind.noise, _NO_NOISE)}"


_NO_NOISE = "There is no noise in it."
_NOISE: Final[Mapping[str, str]] = {
    "distributed": "Your share of the noise is in it; with the others' shares, the sum says less about any one of you.",
    "local": "Noise that hides single rows was added on this machine before it left.",
    "central": "Only the coordinator adds noise, later, and you have its word for that.",
}


def title(kind: Kind) -> str:
    """Return what a kind of message is called."""
    if kind.evaluates:
        return EVALUATION[0]
    if kind.preparation:
        return MESSAGES["prepare"][0]
    return MESSAGES[kind.what][0] if kind.what in MESSAGES else kind.what or "message"


def purpose(kind: Kind) -> str:
    """Return what a kind of message is for."""
    if kind.evaluates:
        return EVALUATION[1]
    if kind.preparation:
        return MESSAGES["prepare"][1]
    return MESSAGES[kind.what][1] if kind.what in MESSAGES else "A message of a kind that this page does not know."


def meaning(code: str) -> str:
    """Return what a refusal's code means, as a sentence to the owner."""
    if code in _OWN:
        return _OWN[code]
    said = CODES.get(code, "what came was not what the protocol asks for")
    said = re.sub(r"\bthe owner (?:(do)es|(\w+)s)\b", lambda found: f"you {found[1] or found[2]}", said)
    return f"{said[:1].upper()}{said[1:]}."


_OWN: Final[Mapping[str, str]] = {
    "paused": "You had paused the agent.",
    "failed": "A step went wrong on this machine, and was not answered.",
    "receipt": "A receipt of the coordinator's was not right, and was not believed.",
}


def code_of(ran: Ran) -> str:
    """Return which code ran, in a few words."""
    model, own = text(ran.asked, "model"), text(ran.asked, "code_sha256")
    if own:
        return f"your approved code {model}, SHA-256 {own}"
    return f"the network {model} that is part of Tacit" if model and ":" not in model else model or "not said"


def masks_of(ran: Ran) -> str:
    """Return whether a run's updates leave masked, and among how many."""
    if ran.asked.get("masked") is not True:
        return "no"
    members, least = number(ran.asked, "members"), number(ran.asked, "min_survivors")
    among = f"yes, among {members:,} members" if members else "yes"
    return f"{among}; a sum has at least {least:,}" if least else among


def noise_of(ran: Ran) -> str:
    """Return how much noise a run's updates get, and where; empty while that is not known."""
    amount = ran.asked.get("noise")
    if type(amount) not in (int, float):
        return "none" if ran.given else ""
    one = "row" if ran.asked.get("unit") == "example" else "member"
    where = _PLACES.get(text(ran.asked, "place"), "made in a place that was not said")
    return f"{amount:.3g} times what one {one} can change, {where}"


_PLACES: Final[Mapping[str, str]] = {
    "distributed": "made by the members together",
    "local": "made on this machine",
    "central": "made by the coordinator",
}


def sureness(epsilon: float) -> str:
    """Return how sure one can become at most who was in two minds before, by epsilon; never less than is true."""
    share = 1.0 / (1.0 + math.exp(-min(epsilon, 700.0)))
    percent = math.ceil(share * 100.0 - 1e-9)
    return ALL_BUT_CERTAIN if percent >= 100 else f"{percent} % sure"


def epsilon_sentence(epsilon: float, delta: float, unit: Unit, row: str) -> str:
    """Return what an epsilon that was spent means, in one sentence."""
    if not epsilon:
        return "Nothing has been spent, so nothing can have been learned."
    if unit == "client":
        question = "whether your data took part at all"
    else:
        question = f"whether one row{f' ({row})' if row else ''} is among your data"
    sure = sureness(epsilon)
    warning = " By itself, so large a number rules out little." if sure == ALL_BUT_CERTAIN else ""
    return (
        f"Somebody who sees everything that this paid for, and was in two minds {question}, can in the worst case "
        f"become {sure} of it, but for a chance of one in {math.floor(1 / delta + 1e-6):,} (delta).{warning}"
    )


def column_words(column: Column) -> tuple[str, str]:
    """Return what a column of a ledger is called, and what to know of it."""
    if column == "assured":
        return "Noise you can rely on", "Made on this machine, or by organisations that you have pinned."
    return (
        "Noise that others promise",
        "It protects you only if the others do add what they promise: nobody can check it.",
    )


def figure(epsilon: float) -> str:
    """Write an epsilon, never as less than it is."""
    return f"{math.ceil(epsilon * 100 - 1e-9) / 100:g}" if math.isfinite(epsilon) else "no bound"


def moment(at: float) -> str:
    """Write a time."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, OSError, TypeError, ValueError):
        return "at an unknown time"


def size(count: int) -> str:
    """Write a number of bytes."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}" if count < 1000 * unit else f"{count / unit:,.0f} {name}"
    return counted(count, "byte")


def counted(count: int, noun: str) -> str:
    """Write a number of things."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

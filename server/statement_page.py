"""A privacy statement as a page for whoever has to judge it: the plain sentence first, then every value it has."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tacit.server.signed_statement import SignatureMismatch, check_statement, is_signed

OBSERVERS: Final = {
    "epsilon": ("the coordinator", "runs the rounds, and may have the stated number of clients on its side"),
    "epsilon_fellow_clients": ("a fellow client", "took part itself, and knows its own data and its own noise"),
    "epsilon_outsiders": ("an outsider", "sees released models and nothing else"),
}

SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "At other deltas": ("profile",),
    "If a contribution is replaced instead of left out": ("replacement",),
    "Who is protected": (
        "unit", "adjacency", "contribution_bound", "population", "run", "round", "recipe", "recipe_sha256",
        "weights_sha256", "simulated",
    ),
    "What was done": (
        "mechanism", "place", "clip", "clip_adapts", "noise_multiplier", "noise_cohort", "target", "sampling",
        "accountant", "calibrated_for", "horizon",
    ),
    "Who took part": ("participations", "max_participations", "cohort", "clients", "colluders", "min_survivors"),
    "What each party sees": ("trust", "released", "secure_aggregation"),
    "What it rests on": ("assumptions", "randomness", "reproducible_noise", "floating_point", "code", "audit"),
    "What it does not cover": ("not_covered", "limits"),
    "What it is worth": ("utility", "groups"),
}  # fmt: skip

TITLES: Final[Mapping[str, str]] = {
    "unit": "Unit of protection",
    "adjacency": "What two neighbouring federations differ in",
    "contribution_bound": "Bound on one contribution",
    "simulated": "Simulated clients",
    "place": "Where the noise is made",
    "clip": "Length that a contribution is clipped to (L2)",
    "clip_adapts": "The clip follows the updates, at a cost that is counted",
    "noise_multiplier": "Standard deviation of the noise, over the sensitivity",
    "noise_cohort": "Cohort that the noise is made for instead of the real one",
    "target": "Asked for",
    "calibrated_for": "Rounds that the noise was chosen for",
    "horizon": "Horizon of the accountant",
    "participations": "Participations that count",
    "max_participations": "Rounds that a client takes part in at most",
    "colluders": "Clients that may collude with the coordinator",
    "min_survivors": "Fewest clients in a sum",
    "trust": "Trust, hop by hop",
    "released": "What is released",
    "randomness": "Where random numbers come from",
    "reproducible_noise": "Noise that can be repeated",
    "floating_point": "Floating-point handling",
    "audit": "Empirical audit",
    "groups": "Effect on groups",
    "adversary": "Coordinator that the masks withstand",
    "mode": "Masks",
}

UNITS: Final = {
    "client": "client: everything that one client contributes",
    "example": "example: one record of one client",
    "none": "none",
}

_APART: Final = frozenset({"sentence", "delta", "hypothetical", "signed_by", "signature", *OBSERVERS})


def statement_markdown(statement: Mapping[str, Any]) -> str:
    """Return the statement as Markdown; it shows every value there is, and claims nothing of its own.

    Args:
        statement: as it was signed, or one that nobody signed; the page says which, and whether the signature fits.
    """
    parts = ["# Privacy statement", _text(statement.get("sentence") or "No sentence says what is promised.")]
    if statement.get("hypothetical"):
        parts.append("**Hypothetical, for study:** the numbers describe another federation than the one that ran.")
    parts.append(_numbers(statement))
    known = {name for names in SECTIONS.values() for name in names} | _APART
    others = tuple(name for name in statement if name not in known)
    for title, names in {**SECTIONS, "What else is stated": others}.items():
        given: Any = {name: statement[name] for name in names if not _is_empty(statement.get(name))}
        if len(given) == 1 and (isinstance(only := next(iter(given.values())), list | tuple) or len(names) == 1):
            given = only
        if given:
            parts.append(f"## {title}\n\n{_table(given) or _lines(given)}")
    parts.append(f"## Signature\n\n{signature_line(statement)}")
    return "\n\n".join(parts) + "\n"


def signature_line(statement: Mapping[str, Any]) -> str:
    """Say in one or two sentences whether a statement is signed, whether the signature fits, and by which key."""
    if not is_signed(statement):
        return "Not signed."
    try:
        signer = check_statement(statement)
    except SignatureMismatch as error:
        return f"The signature does not fit: {error}. Nothing here can be relied on."
    return (
        f"The signature fits. Signed ({_text(signer.kind)}) with the Ed25519 key {signer.public_key.hex()}. Whose key"
        " that is, no signature can say: compare it with one that you know from elsewhere."
    )


def _numbers(statement: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {who} | {_epsilon(statement.get(key))} |" for key, (name, who) in OBSERVERS.items()]
    table = "\n".join(("| against | who that is | epsilon |", "|---|---|---|", *rows))
    delta = statement.get("delta")
    below = "A smaller epsilon is a stronger promise."
    if delta is not None:
        below = f"Except with probability delta = {_text(delta)}. {below}"
    return f"## What is promised\n\n{table}\n\n{below}"


def _epsilon(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "no bound"
    return f"{math.ceil(value * 1000) / 1000:g}"  # Never a smaller one than was accounted.


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | Mapping | list | tuple) and not value)


def _table(records: Any) -> str | None:
    """Return records of the same single values as a table; None for anything else."""
    if not isinstance(records, list | tuple) or not all(isinstance(one, Mapping) for one in records):
        return None
    columns = list(records[0])
    if any(list(one) != columns or _in_one_line(one) is None for one in records):
        return None
    rows = [[_title(name) for name in columns], ["---"] * len(columns)]
    rows += [["none stated" if _is_empty(cell) else _text(cell) for cell in one.values()] for one in records]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _lines(value: Any) -> str:
    return "\n".join(_items(value if isinstance(value, Mapping | list | tuple) else [value], ""))


def _items(value: Any, indent: str) -> Iterator[str]:
    """Yield one line of a list for each entry; entries of entries are indented below it."""
    named = value.items() if isinstance(value, Mapping) else ((None, one) for one in value)
    for key, one in named:
        if _is_empty(one):
            continue
        title = "" if key is None else f"**{_title(str(key))}:** "
        short = _in_one_line(UNITS.get(one, one) if key == "unit" and isinstance(one, str) else one)
        if short is not None and not (key is not None and isinstance(one, Mapping)):
            yield f"{indent}- {title}{short}"
        else:
            yield f"{indent}- {title or '...'}".rstrip()
            yield from _items(one, f"{indent}  ")


def _in_one_line(value: Any) -> str | None:
    """Return a single value, a few numbers or a record of single values in one line; None for anything larger."""
    if isinstance(value, Mapping):
        if any(isinstance(one, Mapping | list | tuple) for one in value.values()):
            return None
        return "; ".join(f"{_title(str(name))}: {_text(one)}" for name, one in value.items() if not _is_empty(one))
    if isinstance(value, list | tuple):
        few = len(value) <= 8 and all(isinstance(one, int | float) for one in value)
        return ", ".join(map(_text, value)) if few else None
    return _text(value)


def _title(key: str) -> str:
    if key in TITLES:
        return TITLES[key]
    words = _text(key.replace("_", " ")).replace("sha256", "SHA-256")
    return words[:1].upper() + words[1:]


def _text(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
    # What stands in a file may come from anybody: it must not reach the terminal or the page as anything but text.
    plain = "".join(character if character.isprintable() else " " for character in str(value))
    return re.sub(r"([\\`*<>|\[\]])", r"\\\1", " ".join(plain.split()))

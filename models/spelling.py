"""What a person probably meant by a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import islice

from tacit.models.errors import InputError

_SHOWN_CHARACTERS = 64
_COMPARED_NAMES = 1000
_LISTED_CHARACTERS = 100
_ALIKE = 0.55  # of the characters of both names; less alike than this, one name says nothing about the other


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like `name`, or None when nothing is known.

    Only 64 characters of 1000 names are compared: the time is quadratic and the name may come from a stranger.
    """
    return max(islice(known, _COMPARED_NAMES), key=lambda other: _likeness(name, other), default=None)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say in a few words what `name` may have meant: the nearest known name, or what is known if none is near."""
    names = list(islice(known, _COMPARED_NAMES))
    closest = nearest(name, names)
    if closest is None:
        return "none is known"
    if _likeness(name, closest) >= _ALIKE:
        return f"the nearest is {closest[:_SHOWN_CHARACTERS]!r}"
    listed = list[str]()
    for other in names:
        if listed and sum(map(len, listed)) + len(other) > _LISTED_CHARACTERS:
            return f"known are {', '.join(listed)} and others"
        listed.append(repr(other[:_SHOWN_CHARACTERS]))
    return f"known {'are' if len(listed) > 1 else 'is'} {', '.join(listed)}"


def unknown(kind: str, name: str, known: Iterable[str], *, where: str = "") -> InputError:
    """Return the error for a `kind` (such as "option") called `name` that is none of the `known` ones."""
    # repr keeps the message on one line whatever the name holds.
    shown = repr(name[:_SHOWN_CHARACTERS])
    return InputError(f"unknown {kind} {shown}", where=where, right=suggestion(name, known))


def _likeness(name: str, other: str) -> float:
    """Return from 0 to 1 how much alike two names are; a whole name within the other is alike enough."""
    asked, known = name[:_SHOWN_CHARACTERS].lower(), other[:_SHOWN_CHARACTERS].lower()
    ratio = SequenceMatcher(None, known, asked).ratio()
    return max(ratio, _ALIKE) if asked and known and (asked in known or known in asked) else ratio

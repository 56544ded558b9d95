"""What a person probably meant by a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import islice

from tacit.models.errors import InputError

_SHOWN_CHARACTERS = 64
_COMPARED_NAMES = 1000


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like `name`, or None when nothing is known.

    Only 64 characters of 1000 names are compared: the time is quadratic and the name may come from a stranger.
    """
    asked = name[:_SHOWN_CHARACTERS].lower()
    return max(
        islice(known, _COMPARED_NAMES),
        key=lambda other: SequenceMatcher(None, other[:_SHOWN_CHARACTERS].lower(), asked).ratio(),
        default=None,
    )


def unknown(kind: str, name: str, known: Iterable[str], *, where: str = "") -> InputError:
    """Return the error for a `kind` (such as "option") called `name` that is none of the `known` ones."""
    closest = nearest(name, known)
    # repr keeps the message on one line whatever the name holds.
    shown = repr(name[:_SHOWN_CHARACTERS])
    right = "none is known" if closest is None else f"the nearest is {closest[:_SHOWN_CHARACTERS]!r}"
    return InputError(f"unknown {kind} {shown}", where=where, right=right)

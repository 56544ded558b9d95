"""Labels of a classification: from the values in a file to indices into the names of the classes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tacit.models.errors import InputError

# More classes than this is a number or an identifier mistaken for a label, and would put rows into the public schema.
MAX_CLASSES = 1000

# After the fixed classes: rows with another label are left out, where they would be refused.
OTHERS = "..."

Place = Callable[[int], str]


def label_texts(values: NDArray) -> NDArray[np.object_]:
    """Return labels of any plain type as text, `""` for a missing one; whole numbers are written without a point."""
    distinct, inverse = np.unique(values, return_inverse=True)
    texts = np.array([_text(value) for value in distinct.tolist()], dtype=object)
    return texts[inverse.reshape(-1)]


def _text(value: object) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value).strip()


def class_names(texts: NDArray[np.object_], fixed: tuple[str, ...], *, where: str) -> tuple[str, ...]:
    """Name the classes: `fixed` where it is given, else the distinct texts, sorted (by number if all are numbers).

    Raises:
        InputError: there are fewer than two classes, or so many that the label is no class.
    """
    names = fixed or tuple(sorted(set(texts.tolist()) - {""}, key=str))
    if not fixed:
        try:
            names = tuple(sorted(names, key=float))
        except ValueError:
            pass
    if len(names) < 2:
        raise InputError(
            f"the label has {len(names)} class{'' if len(names) == 1 else 'es'}",
            where=where,
            right="at least two classes; where other owners hold the rest, name all of them with classes=a,b",
        )
    if len(names) > MAX_CLASSES:
        raise InputError(
            f"the label has {len(names)} distinct values",
            where=where,
            right=f"at most {MAX_CLASSES} classes, or a regression",
        )
    return names


def class_indices(texts: NDArray[np.object_], names: tuple[str, ...], *, place: Place) -> NDArray[np.int64]:
    """Return the index of each label in `names`.

    Args:
        texts: labels, none missing.
        names: the classes.
        place: says where the row of an index stands, for the error.

    Raises:
        InputError: a label is none of the classes; the text says where and not what.
    """
    index = {name: position for position, name in enumerate(names)}
    indices = np.fromiter((index.get(text, -1) for text in texts.tolist()), dtype=np.int64, count=len(texts))
    if (indices < 0).any():
        row = int(np.argmax(indices < 0))
        raise InputError("the label is none of the classes", where=place(row), right=f"one of {len(names)} classes")
    return indices


def without_full_stops(texts: NDArray[np.object_], names: tuple[str, ...]) -> NDArray[np.object_]:
    """Strip a trailing full stop from every test label if that, and only that, makes all of them known classes.

    The test part of the Adult data set is written so.
    """
    distinct = set(texts.tolist()) - {""}
    if distinct <= set(names) or not {text.removesuffix(".") for text in distinct} <= set(names):
        return texts
    return np.array([text.removesuffix(".") for text in texts.tolist()], dtype=object)

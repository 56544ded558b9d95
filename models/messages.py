"""What a coordinator asks and an agent answers, whatever carries it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Outcome = Literal["ok", "refused", "failed"]

PLAIN_ACTIONS = ("prepare", "train")
# The exchanges of a masked round, in order, and the receipt that ends it.
MASKED_ACTIONS = ("advertise", "share", "mask", "sign", "unmask")
RECEIPT_ACTION = "receipt"
# The one exchange of a simulated round with the same arithmetic and no masks.
ELIDED_ACTIONS = ("contribute",)
ACTIONS = (*PLAIN_ACTIONS, *MASKED_ACTIONS, *ELIDED_ACTIONS, RECEIPT_ACTION)


@dataclass(frozen=True, repr=False)
class Instruction:
    """One request to one agent.

    Attributes:
        action: which step to take, one of `ACTIONS`.
        run, round, attempt: what the step is part of; the preparation is round 0.
        plan: the run-constant part as canonical JSON bytes (see `Plan`), the same object for everybody.
        body: small plain values.
        arrays: vectors by name.
        message: the protocol's own bytes in a masked round.
        receipt: what the coordinator owes the agent for an earlier masked round; empty if nothing.
    """

    action: str
    run: str
    round: int
    attempt: int
    plan: bytes
    body: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    message: bytes = b""
    receipt: bytes = b""

    def __repr__(self) -> str:
        """Name the step, never the contents."""
        return f"Instruction({self.action}, run={self.run}, round={self.round}, attempt={self.attempt})"


@dataclass(frozen=True, repr=False)
class Reply:
    """One agent's answer: values, vectors and the protocol's own bytes, or the reason why there are none."""

    outcome: Outcome = "ok"
    reason: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    message: bytes = b""

    def __repr__(self) -> str:
        """Name the outcome, never the contents."""
        return f"Reply({self.outcome}{', ' + self.reason if self.reason else ''})"


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a plain value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def float32_vector(arrays: Mapping[str, NDArray[Any]], name: str, size: int) -> NDArray[np.float32]:
    """Return a named float32 vector of `size` finite entries.

    Raises:
        ValueError: it is missing, or has another type, length or a value that is not finite.
    """
    vector = arrays.get(name)
    if vector is None:
        raise ValueError(f"the vector {name!r} is missing")
    if vector.dtype != np.float32 or vector.shape != (size,):
        raise ValueError(f"the vector {name!r} is {vector.dtype} of shape {vector.shape}, not float32 of ({size},)")
    if not all_finite(vector):
        raise ValueError(f"the vector {name!r} holds a value that is not finite")
    return vector


def all_finite(vector: NDArray[np.float32]) -> bool:
    """Return whether every entry is finite, without a vector of answers: float32 cannot overflow a sum of doubles."""
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(vector.sum(dtype=np.float64)))

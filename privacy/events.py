"""What a release cost, as dp-accounting's events and one of our own; checked, written down and read back strictly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, TypeAlias

import attr
from dp_accounting import dp_event

from tacit.privacy.errors import PrivacyError

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"

_MAX_DEPTH: Final = 16


@attr.s(frozen=True, slots=True, auto_attribs=True)
class SkellamDpEvent(dp_event.DpEvent):  # type: ignore[misc]  # dp-accounting has no types
    """Represents one sum of integer vectors with Skellam noise.

    For integer vectors `v_i` with `|v_i|_2 <= l2_sensitivity` and `|v_i|_1 <= l1_sensitivity`, and `z` of independent
    `Sk(variance)` coordinates, this mechanism returns `sum_i v_i + z`. The noise's distribution does not depend on who
    contributes. `Sk(mu)` has `P[X = k] = exp(-mu) I_|k|(mu)`, mean 0 and variance mu.

    Attributes:
        l2_sensitivity: D2, in integer units.
        l1_sensitivity: D1, in integer units.
        variance: mu per coordinate, in squared integer units; only noise that the claim may rest on.
        total_variation: how far all of the noise together may be from its claimed distribution.
    """

    l2_sensitivity: float
    l1_sensitivity: float
    variance: float
    total_variation: float = 0.0


_CLASSES: Final[Mapping[str, type[dp_event.DpEvent]]] = {
    known.__name__: known
    for known in (
        dp_event.NoOpDpEvent,
        dp_event.NonPrivateDpEvent,
        dp_event.GaussianDpEvent,
        dp_event.PoissonSampledDpEvent,
        dp_event.SelfComposedDpEvent,
        dp_event.ComposedDpEvent,
        SkellamDpEvent,
    )
}


def check_event(event: dp_event.DpEvent, depth: int = 0) -> None:
    """Check an event and all within it: a known class, and parameters that mean something.

    Raises:
        PrivacyError: the first thing that is wrong, by the name of its event.
    """
    name = type(event).__name__
    if _CLASSES.get(name) is not type(event):
        raise PrivacyError(f"unknown privacy event {name}")
    if depth > _MAX_DEPTH:
        raise PrivacyError(f"privacy events are nested deeper than {_MAX_DEPTH}")
    match event:
        case dp_event.GaussianDpEvent():
            _require(name, "noise_multiplier", event.noise_multiplier, low=0.0)
        case dp_event.PoissonSampledDpEvent():
            _require(name, "sampling_probability", event.sampling_probability, low=0.0, high=1.0)
            check_event(event.event, depth + 1)
        case dp_event.SelfComposedDpEvent():
            if type(event.count) is not int or event.count < 0:
                raise PrivacyError(f"{name}: count is an integer of at least 0, not {event.count!r}")
            check_event(event.event, depth + 1)
        case dp_event.ComposedDpEvent():
            if not isinstance(event.events, list):
                raise PrivacyError(f"{name}: events is a list")
            for inner in event.events:
                check_event(inner, depth + 1)
        case SkellamDpEvent():
            _require(name, "l2_sensitivity", event.l2_sensitivity, low=0.0)
            _require(name, "l1_sensitivity", event.l1_sensitivity, low=0.0)
            _require(name, "variance", event.variance, low=0.0)
            _require(name, "total_variation", event.total_variation, low=0.0, high=1.0)


def event_record(event: dp_event.DpEvent) -> dict[str, Json]:
    """Return the event as plain data: dp-accounting's named tuple with its names, `module_name` and `class_name`.

    Raises:
        PrivacyError: the event or one within it is unknown or senseless.
    """
    check_event(event)
    return _record(event)


def read_event(record: Json) -> dp_event.DpEvent:
    """Return the event that `event_record` made this of; nothing else is read, and no module is ever imported by name.

    Raises:
        PrivacyError: the record is not exactly what `event_record` writes.
    """
    event = _read(record, 0)
    check_event(event)
    return event


def _record(event: dp_event.DpEvent) -> dict[str, Json]:
    # Not `_asdict()` of the whole: attrs' classes with no fields make named tuples without our nested conversion.
    record: dict[str, Json] = {"module_name": type(event).__module__, "class_name": type(event).__name__}
    for field in attr.fields(type(event)):
        value = getattr(event, field.name)
        if isinstance(value, dp_event.DpEvent):
            record[field.name] = _record(value)
        elif isinstance(value, list):
            record[field.name] = [_record(inner) for inner in value]
        else:
            record[field.name] = value
    return record


def _read(record: Json, depth: int) -> dp_event.DpEvent:
    if not isinstance(record, dict) or depth > _MAX_DEPTH:
        raise PrivacyError("a privacy event is a record that names its class")
    name = record.get("class_name")
    known = _CLASSES.get(name) if isinstance(name, str) else None
    if known is None or record.get("module_name") != known.__module__:
        raise PrivacyError(f"unknown privacy event {name!r}")
    fields = [field.name for field in attr.fields(known)]
    if set(record) != {"module_name", "class_name", *fields}:
        raise PrivacyError(f"{name}: its fields are {', '.join(fields) or 'none'}, not {', '.join(sorted(record))}")
    values: dict[str, object] = {}
    for field in fields:
        value = record[field]
        if field == "event":
            values[field] = _read(value, depth + 1)
        elif field == "events":
            if not isinstance(value, list):
                raise PrivacyError(f"{name}: events is a list")
            values[field] = [_read(inner, depth + 1) for inner in value]
        else:
            values[field] = value
    return known(**values)


def _require(name: str, field: str, value: object, *, low: float, high: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PrivacyError(f"{name}: {field} is a finite number, not {value!r}")
    if not low <= value <= high:
        raise PrivacyError(f"{name}: {field} is within [{low:g}, {high:g}], not {value!r}")

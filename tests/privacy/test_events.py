"""Events as plain data: what is written comes back, and nothing else is read."""

from __future__ import annotations

import json
from typing import Any

import attr
import pytest
from dp_accounting import dp_event
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.errors import PrivacyError
from tacit.privacy.events import SkellamDpEvent, check_event, event_record, read_event

leaves = (
    st.just(dp_event.NoOpDpEvent())
    | st.just(dp_event.NonPrivateDpEvent())
    | st.builds(dp_event.GaussianDpEvent, st.floats(0.0, 1e6))
    | st.builds(SkellamDpEvent, st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1))
)
events = st.recursive(
    leaves,
    lambda inner: (
        st.builds(dp_event.PoissonSampledDpEvent, st.floats(0, 1), inner)
        | st.builds(dp_event.SelfComposedDpEvent, inner, st.integers(0, 10**6))
        | st.builds(dp_event.ComposedDpEvent, st.lists(inner, max_size=3))
    ),
    max_leaves=8,
)


@given(events)
def test_an_event_survives_being_written_as_json_and_read_back(event: dp_event.DpEvent) -> None:
    assert read_event(json.loads(json.dumps(event_record(event)))) == event


@given(events)
def test_the_record_is_dp_accountings_named_tuple(event: dp_event.DpEvent) -> None:
    def plain(value: Any) -> Any:
        if hasattr(value, "_asdict"):
            return {name: plain(inner) for name, inner in value._asdict().items()}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    assert event_record(event) == plain(event.to_named_tuple())


GAUSSIAN = {"module_name": "dp_accounting.dp_event", "class_name": "GaussianDpEvent", "noise_multiplier": 1.0}


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {},
        {**GAUSSIAN, "class_name": "LaplaceDpEvent"},
        {**GAUSSIAN, "module_name": "os"},
        {**GAUSSIAN, "class_name": ["GaussianDpEvent"]},
        {**GAUSSIAN, "extra": 1},
        {"module_name": "dp_accounting.dp_event", "class_name": "GaussianDpEvent"},
        {**GAUSSIAN, "noise_multiplier": -1.0},
        {**GAUSSIAN, "noise_multiplier": True},
        {**GAUSSIAN, "noise_multiplier": "1.0"},
        {**GAUSSIAN, "noise_multiplier": float("nan")},
        {**GAUSSIAN, "noise_multiplier": float("inf")},
        {"module_name": "dp_accounting.dp_event", "class_name": "ComposedDpEvent", "events": GAUSSIAN},
        {"module_name": "dp_accounting.dp_event", "class_name": "ComposedDpEvent", "events": [GAUSSIAN, 3]},
        {"module_name": "dp_accounting.dp_event", "class_name": "SelfComposedDpEvent", "event": GAUSSIAN, "count": 1.5},
        {"module_name": "dp_accounting.dp_event", "class_name": "SelfComposedDpEvent", "event": GAUSSIAN, "count": -1},
        {
            "module_name": "dp_accounting.dp_event",
            "class_name": "PoissonSampledDpEvent",
            "event": GAUSSIAN,
            "sampling_probability": 1.1,
        },
    ],
)
def test_a_record_that_was_never_written_is_not_read(record: Any) -> None:
    with pytest.raises(PrivacyError):
        read_event(record)


def test_events_nested_too_deep_are_refused_both_ways() -> None:
    event = dp_event.GaussianDpEvent(1.0)
    record: Any = GAUSSIAN
    for _ in range(40):
        event = dp_event.SelfComposedDpEvent(event, 1)
        record = {
            "module_name": "dp_accounting.dp_event",
            "class_name": "SelfComposedDpEvent",
            "event": record,
            "count": 1,
        }
    with pytest.raises(PrivacyError):
        event_record(event)
    with pytest.raises(PrivacyError):
        read_event(record)


def test_an_unknown_event_is_refused_by_its_name_even_inside_a_known_one() -> None:
    @attr.s(frozen=True)
    class HopefulDpEvent(dp_event.DpEvent):
        pass

    for event in (HopefulDpEvent(), dp_event.ComposedDpEvent([dp_event.NoOpDpEvent(), HopefulDpEvent()])):
        with pytest.raises(PrivacyError, match="HopefulDpEvent"):
            check_event(event)


def test_a_class_that_only_borrows_a_known_name_is_refused() -> None:
    borrowed = attr.make_class("GaussianDpEvent", ["noise_multiplier"], bases=(dp_event.DpEvent,))
    with pytest.raises(PrivacyError, match="unknown privacy event GaussianDpEvent"):
        check_event(borrowed(100.0))

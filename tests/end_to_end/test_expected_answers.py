"""What a round expects of an answer: the vectors that honest members send are as large, and no larger."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tacit.models.plan import decode_plan
from tacit.server.flower import MESSAGE_TYPES, GridTransport
from tacit.server.rounds import Request

from .masked import Masked
from .test_evaluation import evaluated
from .test_evaluation import federation as evaluations
from .test_promises import PLACES, THRESHOLDS

KINDS: dict[str, Sequence[str]] = {
    "masked, unpromised": (),
    "elided, unpromised": ("secure_aggregation.mode=elided",),
    "plain": ("secure_aggregation.enabled=false",),
    "a small broadcast": ("training.broadcast=int8",),
    "half a broadcast": ("training.broadcast=float16",),
    **PLACES,
}


Expected = dict[tuple[str, str, int, int], int | None]
"""Bytes by client, step, round and attempt."""


@pytest.fixture
def expected(monkeypatch: pytest.MonkeyPatch) -> Expected:
    """Return what fills with what is expected of the answers to all that is asked."""
    sizes: Expected = {}
    send = GridTransport.send

    def noted(transport: GridTransport, requests: Sequence[Request]) -> None:
        for request in requests:
            at = request.instruction
            kind = MESSAGE_TYPES[at.action].partition(".")[2]
            sizes[request.client, kind, at.round, at.attempt] = request.vector_bytes
        send(transport, requests)

    monkeypatch.setattr(GridTransport, "send", noted)
    return sizes


def assert_as_expected(federation: Masked, expected: Expected) -> None:
    assert len(federation.sent) == len(expected) > 20
    for one in federation.sent:
        size = sum(len(data) for _, data in one.arrays.values())
        assert size == expected[one.client, one.action, one.round, one.attempt], one.action


@pytest.mark.parametrize("overrides", KINDS.values(), ids=KINDS)
def test_the_vectors_of_an_answer_have_the_bytes_that_are_expected(
    overrides: Sequence[str], expected: Expected
) -> None:
    federation = Masked([*THRESHOLDS, *overrides])
    assert federation.execute().round == 2
    assert_as_expected(federation, expected)


@pytest.mark.parametrize("promise", [(), ("privacy.unit=client", "privacy.epsilon=8")], ids=["exact", "noised"])
def test_so_have_those_of_an_evaluation(promise: Sequence[str], expected: Expected) -> None:
    trained = Masked(["secure_aggregation.mode=elided"]).execute()
    expected.clear()
    evaluation = evaluations(*promise)
    assert evaluated(evaluation, (decode_plan(trained.plan), trained.vector)).sums
    assert_as_expected(evaluation, expected)

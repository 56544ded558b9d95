"""What a round expects of an answer: the vectors that honest members send are as large, and no larger."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tacit.server.flower import MESSAGE_TYPES, GridTransport
from tacit.server.rounds import Request

from .masked import Masked
from .test_promises import PLACES, THRESHOLDS

KINDS: dict[str, Sequence[str]] = {
    "masked, unpromised": (),
    "elided, unpromised": ("secure_aggregation.mode=elided",),
    "plain": ("secure_aggregation.enabled=false",),
    "a small broadcast": ("training.broadcast=int8",),
    **PLACES,
}


@pytest.mark.parametrize("overrides", KINDS.values(), ids=KINDS)
def test_the_vectors_of_an_answer_have_the_bytes_that_are_expected(
    overrides: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: dict[tuple[str, str, int, int], int | None] = {}
    send = GridTransport.send

    def noted(transport: GridTransport, requests: Sequence[Request]) -> None:
        for request in requests:
            at = request.instruction
            kind = MESSAGE_TYPES[at.action].partition(".")[2]
            expected[request.client, kind, at.round, at.attempt] = request.vector_bytes
        send(transport, requests)

    monkeypatch.setattr(GridTransport, "send", noted)
    federation = Masked([*THRESHOLDS, *overrides])
    assert federation.execute().round == 2
    assert len(federation.sent) == len(expected) > 20
    for one in federation.sent:
        size = sum(len(data) for _, data in one.arrays.values())
        assert size == expected[one.client, one.action, one.round, one.attempt], one.action

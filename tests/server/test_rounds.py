"""A round ends whatever its clients do, and knows afterwards what each of them did."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.messages import Instruction, Reply
from tacit.server.rounds import ALLOWED, Participant, Request, Round, RoundAborted, RoundState

FIVE = ("advertise", "share", "mask", "check", "unmask")
OK = Reply(body={"fine": True})
MALFORMED = Reply(body={"fine": False})


@dataclass
class Script:
    """Exchanges that accept what says that it is fine, and remember all they saw."""

    names: tuple[str, ...] = ("train",)
    closes_early: int | None = None
    aborts_at: int | None = None
    keeps: int | None = None  # how many reporters each exchange passes on; None for all
    accepted: list[tuple[int, str]] = field(default_factory=list)
    closed: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)

    def request(self, exchange: int, client: str) -> Instruction:
        return Instruction(self.names[exchange], "run", 1, 0, b"plan", {"to": client})

    def vector_bytes(self, exchange: int) -> int:
        return 100 * exchange

    def accept(self, exchange: int, client: str, reply: Reply) -> None:
        if not reply.body.get("fine"):
            raise ValueError("the vector is missing")
        self.accepted.append((exchange, client))

    def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
        self.closed.append((exchange, tuple(reported)))
        if exchange == self.aborts_at:
            raise RoundAborted("below the threshold")
        return reported if self.keeps is None else reported[: self.keeps]


def a_round(
    size: int = 3, wanted: int | None = None, script: Script | None = None, deadline: float = 10.0, quorum: float = 1.0
) -> tuple[Round, Script]:
    script = script or Script()
    cohort = tuple(f"c{index}" for index in range(size))
    return Round(cohort, wanted or size, script, deadline_seconds=deadline, quorum=quorum), script


def asked(requests: Sequence[Request]) -> list[str]:
    return [request.client for request in requests]


def outcomes(current: Round) -> dict[str, str]:
    return {participant.client: participant.outcome for participant in current.participation()}


def call(current: Round, name: str) -> list[Request]:
    return {
        "start": lambda: current.start(0.0),
        "receive": lambda: current.receive("c0", OK, 1.0),
        "lose": lambda: current.lose("c0", "gone", 1.0),
        "tick": lambda: current.tick(1.0),
    }[name]()


# Calls and states


def in_state(state: RoundState) -> Round:
    current, _ = a_round(1)
    if state is not RoundState.READY:
        current.start(0.0)
    if state is RoundState.COMPLETE:
        current.receive("c0", OK, 0.0)
    if state is RoundState.ABORTED:
        current.lose("c0", "gone", 0.0)
    assert current.state is state
    return current


@pytest.mark.parametrize("state", RoundState)
@pytest.mark.parametrize("name", ["start", "receive", "lose", "tick"])
def test_a_call_that_a_state_does_not_allow_raises_and_changes_nothing(state: RoundState, name: str) -> None:
    current = in_state(state)
    if name in ALLOWED[state]:
        call(current, name)
        return
    with pytest.raises(RuntimeError, match=f"a round that is {state.value} cannot {name}"):
        call(current, name)
    assert current.state is state


@pytest.mark.parametrize("state", [RoundState.COMPLETE, RoundState.ABORTED])
@pytest.mark.parametrize("name", ["receive", "lose", "tick"])
def test_nothing_changes_a_round_that_is_over(state: RoundState, name: str) -> None:
    current = in_state(state)
    before = current.participation()
    assert call(current, name) == []
    assert (current.state, current.participation()) == (state, before)


@pytest.mark.parametrize(
    ("cohort", "wanted"), [(("a", "a"), 1), (("a", "b"), 3), (("a",), 0), ((), 0), ((), 1), (("a",), -1)]
)
def test_a_cohort_with_a_repetition_or_too_few_members_is_refused(cohort: tuple[str, ...], wanted: int) -> None:
    with pytest.raises(ValueError, match="distinct members and at least as many as are wanted"):
        Round(cohort, wanted, Script(), deadline_seconds=1, quorum=1)


def test_nobody_takes_part_before_the_start() -> None:
    current, _ = a_round(2)
    assert (current.participation(), current.reported, current.waiting_for) == ((), (), frozenset())


# One exchange


def test_every_member_of_the_cohort_is_asked_once_in_order() -> None:
    current, _ = a_round(3)
    requests = current.start(0.0)
    assert asked(requests) == ["c0", "c1", "c2"]
    assert [request.instruction.body["to"] for request in requests] == ["c0", "c1", "c2"]
    assert current.waiting_for == {"c0", "c1", "c2"}


def test_a_round_is_complete_when_everybody_has_reported() -> None:
    current, script = a_round(3)
    current.start(0.0)
    for client in ("c2", "c0", "c1"):
        assert current.state is RoundState.WAITING
        current.receive(client, OK, 1.0)
    assert current.state is RoundState.COMPLETE
    assert current.reported == ("c2", "c0", "c1")
    assert script.closed == [(0, ("c2", "c0", "c1"))]
    assert current.participation() == tuple(Participant(c, "reported", "", "train") for c in ("c0", "c1", "c2"))


def test_a_repeated_reply_is_taken_once() -> None:
    current, script = a_round(2)
    current.start(0.0)
    for _ in range(3):
        assert current.receive("c0", OK, 1.0) == []
    assert script.accepted == [(0, "c0")]
    assert current.state is RoundState.WAITING


def test_a_reply_after_a_refusal_of_the_same_client_is_not_taken() -> None:
    current, script = a_round(2, quorum=0.5)
    current.start(0.0)
    current.receive("c0", Reply("refused", "the budget is spent"), 1.0)
    current.receive("c0", OK, 1.0)
    assert script.accepted == []
    assert current.participation()[0] == Participant("c0", "refused", "the budget is spent", "train")


def test_a_stranger_changes_nothing() -> None:
    current, script = a_round(2)
    current.start(0.0)
    before = current.participation()
    assert current.receive("eve", OK, 1.0) == current.lose("eve", "gone", 1.0) == []
    assert (script.accepted, current.participation(), current.state) == ([], before, RoundState.WAITING)


def test_a_malformed_reply_is_dropped_with_its_reason_and_the_round_goes_on() -> None:
    current, _ = a_round(3, quorum=0.6)
    current.start(0.0)
    current.receive("c1", MALFORMED, 1.0)
    current.receive("c0", OK, 1.0)
    current.receive("c2", OK, 1.0)
    assert current.state is RoundState.COMPLETE
    assert current.participation()[1] == Participant("c1", "dropped", "the vector is missing", "train")


@pytest.mark.parametrize(
    ("reply", "outcome", "reason"),
    [
        (Reply("refused", "policy: cohort_floor"), "refused", "policy: cohort_floor"),
        (Reply("refused"), "refused", "refused without a reason"),
        (Reply("failed", "out of memory"), "dropped", "out of memory"),
        (Reply("failed"), "dropped", "failed without a reason"),
    ],
)
def test_a_client_that_says_no_is_recorded_with_its_reason(reply: Reply, outcome: str, reason: str) -> None:
    current, script = a_round(2, quorum=0.5)
    current.start(0.0)
    current.receive("c0", reply, 1.0)
    current.receive("c1", OK, 1.0)
    assert current.state is RoundState.COMPLETE
    assert current.participation()[0] == Participant("c0", outcome, reason, "train")
    assert script.accepted == [(0, "c1")]


def test_a_lost_client_is_recorded_with_what_the_transport_says() -> None:
    current, _ = a_round(2, quorum=0.5)
    current.start(0.0)
    current.lose("c0", "the node failed", 1.0)
    current.receive("c1", OK, 1.0)
    assert current.participation()[0] == Participant("c0", "dropped", "the node failed", "train")


# Time


def test_at_the_deadline_whoever_has_not_answered_is_late() -> None:
    current, _ = a_round(3, deadline=10, quorum=0.6)
    current.start(5.0)
    current.receive("c0", OK, 6.0)
    current.receive("c1", OK, 14.9)
    assert current.tick(14.999) == [] and current.state is RoundState.WAITING
    current.tick(15.0)
    assert current.state is RoundState.COMPLETE
    assert current.participation()[2] == Participant("c2", "late", "no answer within 10 s", "train")


def test_a_reply_after_the_deadline_is_late_even_if_nobody_looked_at_the_clock() -> None:
    current, script = a_round(2, deadline=10, quorum=0.5)
    current.start(0.0)
    current.receive("c0", OK, 1.0)
    current.receive("c1", OK, 10.5)
    assert (current.state, script.accepted) == (RoundState.COMPLETE, [(0, "c0")])
    assert outcomes(current) == {"c0": "reported", "c1": "late"}


def test_a_reply_at_the_last_moment_counts() -> None:
    current, script = a_round(1, deadline=10)
    current.start(0.0)
    current.receive("c0", OK, 10.0)
    assert (current.state, script.accepted) == (RoundState.COMPLETE, [(0, "c0")])


def test_too_few_reports_at_the_deadline_abort_the_round() -> None:
    current, script = a_round(3, deadline=10, quorum=1)
    current.start(0.0)
    current.receive("c0", OK, 1.0)
    current.tick(10.0)
    assert (current.state, current.reason) == (RoundState.ABORTED, "1 reported, the quorum is 3")
    assert script.closed == []
    assert outcomes(current) == {"c0": "reported", "c1": "late", "c2": "late"}


def test_every_exchange_has_a_deadline_of_its_own() -> None:
    current, _ = a_round(1, script=Script(names=("one", "two")), deadline=10)
    current.start(0.0)
    assert current.deadline == 10
    current.receive("c0", OK, 7.0)
    assert current.deadline == 17
    current.tick(16.0)
    assert current.state is RoundState.WAITING
    current.receive("c0", OK, 16.5)
    assert (current.state, current.deadline) == (RoundState.COMPLETE, math.inf)


# Quorum and over-selection


@pytest.mark.parametrize("wanted", range(1, 12))
@pytest.mark.parametrize("tenths", range(1, 11))
def test_the_quorum_is_the_share_of_those_wanted_rounded_up(wanted: int, tenths: int) -> None:
    required = max(1, -(-tenths * wanted // 10))
    for reporting in (required - 1, required):
        current, _ = a_round(wanted, quorum=tenths / 10)
        current.start(0.0)
        for index in range(reporting):
            current.receive(f"c{index}", OK, 1.0)
        current.tick(10.0)
        assert current.state is (RoundState.COMPLETE if reporting >= required else RoundState.ABORTED)


def test_a_quorum_is_not_raised_by_rounding() -> None:
    assert 0.07 * 100 > 7  # in floating point
    current, _ = a_round(100, quorum=0.07)
    current.start(0.0)
    for index in range(7):
        current.receive(f"c{index}", OK, 1.0)
    current.tick(10.0)
    assert current.state is RoundState.COMPLETE


def test_a_round_that_cannot_reach_its_quorum_ends_at_once() -> None:
    current, _ = a_round(5, quorum=0.8)
    current.start(0.0)
    current.lose("c0", "gone", 1.0)
    assert current.state is RoundState.WAITING
    current.lose("c1", "gone", 1.0)
    assert (current.state, current.reason) == (RoundState.ABORTED, "0 reported, the quorum is 4")
    assert outcomes(current) == {"c0": "dropped", "c1": "dropped", "c2": "late", "c3": "late", "c4": "late"}


def test_a_round_with_more_clients_than_wanted_ends_with_the_first_enough() -> None:
    current, script = a_round(5, wanted=3, script=Script(closes_early=0))
    current.start(0.0)
    for client in ("c4", "c1", "c3"):
        current.receive(client, OK, 1.0)
    assert current.state is RoundState.COMPLETE
    assert script.closed == [(0, ("c4", "c1", "c3"))]
    assert current.participation()[0] == Participant("c0", "late", "the round was over", "train")
    assert current.receive("c0", OK, 2.0) == [] and len(script.accepted) == 3


def test_spare_clients_replace_those_that_drop_out() -> None:
    current, _ = a_round(5, wanted=3, script=Script(closes_early=0))
    current.start(0.0)
    current.lose("c0", "gone", 1.0)
    current.lose("c1", "gone", 1.0)
    assert current.state is RoundState.WAITING
    for client in ("c2", "c3", "c4"):
        current.receive(client, OK, 1.0)
    assert current.state is RoundState.COMPLETE


def test_an_exchange_that_does_not_close_early_waits_for_all() -> None:
    current, _ = a_round(4, wanted=2, script=Script(closes_early=None))
    current.start(0.0)
    for client in ("c0", "c1", "c2"):
        current.receive(client, OK, 1.0)
        assert current.state is RoundState.WAITING
    current.receive("c3", OK, 1.0)
    assert current.state is RoundState.COMPLETE


# Several exchanges


def test_an_exchange_asks_those_that_reported_in_the_one_before() -> None:
    current, script = a_round(3, script=Script(names=FIVE), quorum=0.6)
    assert asked(current.start(0.0)) == ["c0", "c1", "c2"]
    current.receive("c2", OK, 1.0)
    current.lose("c1", "gone", 1.0)
    requests = current.receive("c0", OK, 1.0)
    assert asked(requests) == ["c2", "c0"]
    assert {request.instruction.action for request in requests} == {"share"}
    assert current.receive("c1", OK, 1.0) == [] and (1, "c1") not in script.accepted


def test_a_reply_to_an_earlier_exchange_is_not_counted_twice() -> None:
    current, _ = a_round(2, script=Script(names=("one", "two")))
    current.start(0.0)
    current.receive("c0", OK, 1.0)
    current.receive("c0", OK, 1.0)
    assert current.waiting_for == {"c1"}
    current.receive("c1", OK, 1.0)
    assert current.waiting_for == {"c0", "c1"}


@pytest.mark.parametrize("exchange", range(5))
def test_exchanges_that_cannot_go_on_abort_the_round_with_their_reason(exchange: int) -> None:
    current, script = a_round(2, script=Script(names=FIVE, aborts_at=exchange))
    current.start(0.0)
    for _ in range(exchange + 1):
        current.receive("c0", OK, 1.0)
        current.receive("c1", OK, 1.0)
    assert (current.state, current.reason) == (RoundState.ABORTED, "below the threshold")
    assert len(script.closed) == exchange + 1
    assert current.participation() == tuple(Participant(c, "reported", "", FIVE[exchange]) for c in ("c0", "c1"))


def test_a_client_that_a_later_exchange_leaves_out_has_reported() -> None:
    current, _ = a_round(4, script=Script(names=("one", "two"), keeps=2), quorum=0.5)
    current.start(0.0)
    for index in range(4):
        requests = current.receive(f"c{index}", OK, 1.0)
    assert asked(requests) == ["c0", "c1"]
    current.receive("c0", OK, 2.0)
    current.receive("c1", OK, 2.0)
    assert current.state is RoundState.COMPLETE
    assert current.participation() == (
        Participant("c0", "reported", "", "two"),
        Participant("c1", "reported", "", "two"),
        Participant("c2", "reported", "", "one"),
        Participant("c3", "reported", "", "one"),
    )


def test_a_next_exchange_below_the_quorum_aborts_without_waiting() -> None:
    current, _ = a_round(4, script=Script(names=("one", "two"), keeps=0), quorum=0.5)
    current.start(0.0)
    for index in range(4):
        requests = current.receive(f"c{index}", OK, 1.0)
    assert requests == []
    assert (current.state, current.reason) == (RoundState.ABORTED, "0 are left to ask, the quorum is 2")


@pytest.mark.parametrize("following", [("c0", "eve"), ("c0", "c1"), ("c0", "c0")])
def test_exchanges_that_ask_for_a_client_that_did_not_report_are_a_mistake(following: tuple[str, ...]) -> None:
    class Wrong(Script):
        def close(self, exchange: int, reported: Sequence[str]) -> Sequence[str]:
            return following

    current, _ = a_round(2, script=Wrong(names=("one", "two")), quorum=0.5)
    current.start(0.0)
    current.lose("c1", "gone", 1.0)
    with pytest.raises(ValueError, match="only clients that reported can be asked again"):
        current.receive("c0", OK, 1.0)


def survivors(drops: Sequence[int], exchange: int) -> int:
    """Return how many clients still answer in an exchange, when client i is gone from exchange drops[i] on."""
    return sum(drop > exchange for drop in drops)


@pytest.mark.parametrize("clients", range(1, 6))
@pytest.mark.parametrize("quorum", [0.01, 0.6, 1.0])
def test_whoever_drops_out_of_whichever_of_five_exchanges_the_round_ends_as_the_survivors_say(
    clients: int, quorum: float
) -> None:
    required = max(1, math.ceil(quorum * clients - 1e-9))
    for drops in itertools.product(range(6), repeat=clients):
        current, script = a_round(clients, script=Script(names=FIVE), deadline=1.0, quorum=quorum)
        now, open_requests = 0.0, current.start(0.0)
        while current.state is RoundState.WAITING:
            exchange = FIVE.index(open_requests[0].instruction.action)
            following: list[Request] = []
            # Everybody who answers does so first; the others vanish until the deadline.
            for request in open_requests:
                if drops[int(request.client[1:])] > exchange:
                    following += current.receive(request.client, OK, now)
            if not following:
                now = current.deadline if current.state is RoundState.WAITING else now
                following += current.tick(now)
            open_requests = following
        failing = next((e for e in range(5) if survivors(drops, e) < required), None)
        last = 4 if failing is None else failing
        assert current.state is (RoundState.COMPLETE if failing is None else RoundState.ABORTED)
        assert [exchange for exchange, _ in script.closed] == list(range(5 if failing is None else failing))
        assert current.participation() == tuple(
            Participant(f"c{index}", "reported", "", FIVE[last])
            if drop > last
            else Participant(f"c{index}", "late", "no answer within 1 s", FIVE[drop])
            for index, drop in enumerate(drops)
        )


@pytest.mark.parametrize("how", ["lose", "refuse", "fail", "garble"])
def test_dropping_out_loudly_ends_as_dropping_out_silently_does(how: str) -> None:
    for drops in itertools.product(range(6), repeat=3):
        current, _ = a_round(3, script=Script(names=FIVE), quorum=0.6)
        open_requests = current.start(0.0)
        while current.state is RoundState.WAITING:
            exchange = FIVE.index(open_requests[0].instruction.action)
            following: list[Request] = []
            for request in open_requests:
                if drops[int(request.client[1:])] > exchange:
                    following += current.receive(request.client, OK, 0.0)
                elif how == "lose":
                    following += current.lose(request.client, "gone", 0.0)
                else:
                    reply = {"refuse": Reply("refused"), "fail": Reply("failed"), "garble": MALFORMED}[how]
                    following += current.receive(request.client, reply, 0.0)
            open_requests = following
        complete = all(survivors(drops, exchange) >= 2 for exchange in range(5))
        assert current.state is (RoundState.COMPLETE if complete else RoundState.ABORTED)


# Any order of events

CLIENTS = st.sampled_from(["c0", "c1", "c2", "c3", "c4", "eve"])
EVENTS = st.one_of(
    st.tuples(st.just("receive"), CLIENTS, st.sampled_from([OK, MALFORMED, Reply("refused", "no"), Reply("failed")])),
    st.tuples(st.just("lose"), CLIENTS, st.just("gone")),
    st.tuples(st.just("tick"), st.floats(0, 6), st.none()),
)


@given(
    size=st.integers(1, 5),
    spare=st.integers(0, 4),
    exchanges=st.integers(1, 5),
    closes_early=st.sampled_from([None, 0, 2]),
    keeps=st.sampled_from([None, 1, 3]),
    quorum=st.sampled_from([0.01, 0.5, 0.8, 1.0]),
    events=st.lists(EVENTS, max_size=60),
)
def test_any_order_of_events_ends_the_round_and_accounts_for_every_client_once(
    size: int, spare: int, exchanges: int, closes_early: int | None, keeps: int | None, quorum: float, events: list
) -> None:
    script = Script(names=FIVE[:exchanges], closes_early=closes_early, keeps=keeps)
    wanted = max(1, size - spare)
    current, _ = a_round(size, wanted, script, deadline=5, quorum=quorum)
    cohort = [f"c{index}" for index in range(size)]
    now = 0.0
    ever_asked = asked(current.start(now))
    assert ever_asked == cohort
    for kind, who, what in events:
        if kind == "tick":
            now += who
            requests = current.tick(now)
        else:
            requests = getattr(current, kind)(who, what, now)
        assert set(asked(requests)) <= set(cohort)
        assert [participant.client for participant in current.participation()] == cohort
        assert (current.state is RoundState.WAITING) == bool(current.waiting_for)
    for _ in range(exchanges):
        if current.state is RoundState.WAITING:
            current.tick(current.deadline)
    assert current.state in (RoundState.COMPLETE, RoundState.ABORTED)
    accounted = current.participation()
    assert [participant.client for participant in accounted] == cohort
    assert bool(current.reason) == (current.state is RoundState.ABORTED)
    # An answer is accepted at most once, only of the cohort, and exactly by those that reported or dropped out later.
    assert len(set(script.accepted)) == len(script.accepted)
    last_accepted = {client: script.names[exchange] for exchange, client in script.accepted}
    for participant in accounted:
        if participant.outcome == "reported":
            assert participant.exchange == last_accepted[participant.client]
        else:
            assert participant.reason and last_accepted.get(participant.client) != participant.exchange
    if current.state is RoundState.COMPLETE:
        assert len(script.closed) == exchanges
        assert all(len(reported) >= max(1, math.ceil(quorum * wanted - 1e-9)) for _, reported in script.closed)

"""The grid within a process: one failure is never another's, and time does not depend on the machine."""

import gc
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from pydantic import ValidationError

from tacit.models.messages import Instruction, Reply
from tacit.models.sections import TrainingSection
from tacit.server.exchanges import Occasion, Training
from tacit.server.flower import MESSAGE_TYPES, GridTransport
from tacit.server.rounds import Request, Round, RoundState
from tacit.server.transport import drive
from tacit.simulations.engine import (
    FIRST_NODE,
    LONGER_THAN_ANY_DEADLINE,
    RUN_ID,
    SERVER_NODE,
    InProcessGrid,
    run_in_process,
    server_context,
    task_identity,
)

TRAIN = MESSAGE_TYPES["train"]


@pytest.fixture
def identity() -> Iterator[None]:
    with task_identity():
        yield


def answering(message: Message, context: Context) -> Message:
    arrays = ArrayRecord()
    arrays["update"] = Array("float32", (2,), "tacit.raw", np.ones(2, np.float32).tobytes())
    header = json.dumps({"outcome": "ok", "reason": "", "body": {"examples": 4, "loss": 0.5}})
    config = ConfigRecord({"header": header.encode(), "message": b""})
    return Message(RecordDict({"reply": config, "arrays": arrays}), reply_to=message)


def app_that(answers: Any) -> ClientApp:
    app = ClientApp()
    category, _, action = TRAIN.partition(".")
    (getattr(app, category)(action) if action else getattr(app, category)())(answers)
    return app


def transport_over(grid: InProcessGrid, **options: Any) -> GridTransport:
    return GridTransport(grid, now=grid.now, pause=grid.pause, forget=grid.discard, share_memory=True, **options)


def one_round(grid: InProcessGrid, quorum: float = 0.01, wanted: int | None = None, deadline: float = 600.0) -> Round:
    transport = transport_over(grid)
    cohort = transport.clients()
    exchange = Training(Occasion("run", 1, 0, b"plan"), {"vector": np.zeros(2, np.float32)}, by_examples=True)
    current = Round(cohort, wanted or len(cohort), exchange, deadline_seconds=deadline, quorum=quorum)
    drive(current, transport)
    return current


def by_node(current: Round) -> dict[int, tuple[str, str]]:
    return {int(p.client) - FIRST_NODE: (p.outcome, p.reason) for p in current.participation()}


def test_every_node_has_a_context_of_its_own_that_lasts(identity: None) -> None:
    seen: list[tuple[int, int, int]] = []

    def answers(message: Message, context: Context) -> Message:
        context.state["count"] = ConfigRecord({"n": int(context.state.get("count", {"n": 0})["n"]) + 1})
        seen.append((context.node_id, context.node_config["partition-id"], context.state["count"]["n"]))
        return answering(message, context)

    grid = InProcessGrid(app_that(answers), 2)
    one_round(grid)
    one_round(grid)
    assert seen == [(FIRST_NODE, 0, 1), (FIRST_NODE + 1, 1, 1), (FIRST_NODE, 0, 2), (FIRST_NODE + 1, 1, 2)]


class SecretError(Exception):
    """Carries a row."""


@pytest.mark.parametrize(
    "error", [SecretError("Alice, 1956, HIV"), MemoryError("Alice"), RecursionError(), OSError("Alice")]
)
def test_an_exception_in_a_client_app_is_a_lost_client_and_its_text_goes_nowhere(
    identity: None, error: Exception, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    def answers(message: Message, context: Context) -> Message:
        if context.node_id == FIRST_NODE + 1:
            raise error
        return answering(message, context)

    grid = InProcessGrid(app_that(answers), 3)
    current = one_round(grid)
    assert current.state is RoundState.COMPLETE
    assert by_node(current) == {
        0: ("reported", ""), 1: ("dropped", "the node failed (code 2)"), 2: ("reported", "")
    }  # fmt: skip
    printed = capfd.readouterr()
    assert "Alice" not in printed.out + printed.err + caplog.text


def test_the_error_that_travels_names_the_type_of_the_exception_alone(identity: None) -> None:
    def answers(message: Message, context: Context) -> Message:
        raise SecretError("Alice, 1956, HIV")

    grid = InProcessGrid(app_that(answers), 1)
    message = grid.create_message(RecordDict(), TRAIN, FIRST_NODE, "1.0")
    (reply,) = grid.send_and_receive([message])
    assert (reply.error.code, reply.error.reason) == (2, "SecretError")


def test_a_message_of_a_kind_that_the_app_does_not_know_is_a_lost_client(identity: None) -> None:
    grid = InProcessGrid(app_that(answering), 1)
    transport = transport_over(grid)
    transport.send([Request(client, Instruction("prepare", "run", 1, 0, b"")) for client in transport.clients()])
    (arrival,) = transport.arrivals(10.0)
    assert arrival.reply is None


def test_a_node_that_vanishes_is_late_without_anybody_waiting(identity: None) -> None:
    asked: list[tuple[int, str, str]] = []

    def vanish(node: int, kind: str, group: str) -> bool:
        asked.append((node, kind, group))
        return node == FIRST_NODE + 2

    grid = InProcessGrid(app_that(answering), 4, vanish)
    current = one_round(grid)
    assert by_node(current) == {
        0: ("reported", ""), 1: ("reported", ""), 2: ("late", "no answer within 600 s"), 3: ("reported", "")
    }  # fmt: skip
    assert asked == [(FIRST_NODE + index, TRAIN, "1.0") for index in range(4)]
    assert grid.now() == LONGER_THAN_ANY_DEADLINE


def test_a_node_that_vanished_once_can_answer_later(identity: None) -> None:
    gone = {FIRST_NODE}
    grid = InProcessGrid(app_that(answering), 2, lambda node, kind, group: node in gone)
    assert by_node(one_round(grid))[0][0] == "late"
    gone.clear()
    assert by_node(one_round(grid))[0][0] == "reported"


def test_time_stands_still_while_there_is_work(identity: None) -> None:
    grid = InProcessGrid(app_that(answering), 5)
    one_round(grid)
    assert grid.now() == 0.0


def test_a_thousand_rounds_with_drop_outs_keep_their_deadlines(identity: None) -> None:
    grid = InProcessGrid(app_that(answering), 2, lambda node, kind, group: node == FIRST_NODE)
    for _ in range(1000):
        current = one_round(grid, deadline=0.01)
        assert by_node(current) == {0: ("late", "no answer within 0.01 s"), 1: ("reported", "")}


def test_no_deadline_of_a_recipe_is_longer_than_any() -> None:
    TrainingSection(deadline_seconds=LONGER_THAN_ANY_DEADLINE / 100)
    with pytest.raises(ValidationError):
        TrainingSection(deadline_seconds=LONGER_THAN_ANY_DEADLINE)


def test_everybody_vanishing_aborts_the_round(identity: None) -> None:
    current = one_round(InProcessGrid(app_that(answering), 3, lambda node, kind, group: True))
    assert (current.state, current.reason) == (RoundState.ABORTED, "0 reported, the quorum is 1")


def test_messages_are_delivered_in_the_order_they_were_pushed(identity: None) -> None:
    order: list[int] = []

    def answers(message: Message, context: Context) -> Message:
        order.append(context.node_id)
        return answering(message, context)

    grid = InProcessGrid(app_that(answers), 9)
    messages = [grid.create_message(RecordDict(), TRAIN, FIRST_NODE + n, "1.0") for n in (5, 0, 8, 3)]
    replies = list(grid.send_and_receive(messages))
    assert order == [FIRST_NODE + n for n in (5, 0, 8, 3)]
    assert [reply.metadata.src_node_id for reply in replies] == order


def test_a_message_is_answered_once(identity: None) -> None:
    grid = InProcessGrid(app_that(answering), 1)
    identifiers = list(grid.push_messages([grid.create_message(RecordDict(), TRAIN, FIRST_NODE, "1.0")]))
    assert len(list(grid.pull_messages(identifiers))) == 1
    assert list(grid.pull_messages(identifiers)) == []


def test_a_message_to_nobody_is_a_lost_client(identity: None) -> None:
    grid = InProcessGrid(app_that(answering), 1)
    (reply,) = grid.send_and_receive([grid.create_message(RecordDict(), TRAIN, 99, "1.0")])
    assert reply.has_error()


def test_the_identity_that_flower_wants_is_put_back(identity: None) -> None:
    with task_identity():
        assert (TaskIdentity.run_id, TaskIdentity.node_id) == (RUN_ID, SERVER_NODE)
        TaskIdentity.run_id = 77
    assert TaskIdentity.run_id == RUN_ID


def test_the_identity_is_put_back_after_an_error() -> None:
    before = TaskIdentity._run_id
    with pytest.raises(KeyError), task_identity():
        raise KeyError
    assert TaskIdentity._run_id == before


def test_a_server_context_carries_the_run_configuration() -> None:
    context = server_context({"recipe": "r.toml"})
    assert (context.run_id, context.node_id, context.run_config) == (RUN_ID, SERVER_NODE, {"recipe": "r.toml"})


# Tacit's own apps


class Echo:
    """An agent that answers every instruction with the sum of the vector."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.seen: list[Instruction] = []

    def handle(self, instruction: Instruction) -> Reply:
        self.seen.append(Instruction(instruction.action, instruction.run, instruction.round, 0, instruction.plan))
        total = float(instruction.arrays["vector"].sum())
        return Reply(body={"node": self.node, "total": total}, arrays={"v": instruction.arrays["vector"] * 2})


def test_instructions_and_replies_pass_both_apps_unchanged() -> None:
    agents = {FIRST_NODE + index: Echo(index) for index in range(3)}
    federation = SimpleNamespace(agents=agents, names={node: f"agent-{echo.node}" for node, echo in agents.items()})

    def ask(transport: GridTransport) -> list[tuple[str, Any, list[float]]]:
        vector = np.array([1, 2, 3], np.float32)
        transport.send(
            [
                Request(client, Instruction("train", "run", 4, 0, b"p", {}, {"vector": vector}))
                for client in transport.clients()
            ]
        )
        return [(a.client, a.reply.body, a.reply.arrays["v"].tolist()) for a in transport.arrivals(1.0) if a.reply]

    assert run_in_process(federation, ask) == [
        (f"agent-{index}", {"node": index, "total": 6.0}, [2.0, 4.0, 6.0]) for index in range(3)
    ]
    assert [(i.action, i.run, i.round, i.plan) for i in agents[FIRST_NODE].seen] == [("train", "run", 4, b"p")]


def test_what_the_driver_raises_comes_out_of_the_server_app() -> None:
    def drive_badly(transport: GridTransport) -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        run_in_process(SimpleNamespace(agents={FIRST_NODE: Echo(0)}, names={FIRST_NODE: "a"}), drive_badly)


def test_no_vector_outlives_its_message_on_either_side() -> None:
    """Without the garbage collector: what needs it stays in memory for as long as it pleases."""
    sizes: list[int] = []

    class Big(Echo):
        def handle(self, instruction: Instruction) -> Reply:
            alive = [o for o in gc.get_objects() if type(o) is Array and len(o.data) == 40_000]
            sizes.append(len(alive))
            return Reply(arrays={"v": np.zeros(10_000, np.float32)})

    def ask(transport: GridTransport) -> None:
        vector = np.zeros(3, np.float32)
        for client in transport.clients():
            transport.send([Request(client, Instruction("train", "run", 1, 0, b"p", {}, {"vector": vector}))])
            for arrival in transport.arrivals(1.0):
                del arrival

    nodes = range(FIRST_NODE, FIRST_NODE + 5)
    gc.collect()
    gc.disable()
    try:
        run_in_process(SimpleNamespace(agents=dict.fromkeys(nodes, Big(0)), names={n: str(n) for n in nodes}), ask)
    finally:
        gc.enable()
    assert sizes == [0] * 5


def test_a_grid_is_one_of_flowers() -> None:
    assert isinstance(InProcessGrid(app_that(answering), 1), Grid)

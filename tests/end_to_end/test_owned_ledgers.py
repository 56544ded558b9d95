"""Federations whose clients have owners, with policies and ledgers on disk, and a coordinator that tries it on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tacit.client import contribution
from tacit.client.agent import Agent
from tacit.client.consent import Consent
from tacit.client.journal import AgentJournal
from tacit.client.masked import Membership
from tacit.client.policy import Policy
from tacit.models.data.rows import Rows
from tacit.models.messages import Instruction, Reply
from tacit.privacy.codec import sha256
from tacit.privacy.ledger import LedgerBroken
from tacit.privacy.records import Column
from tacit.privacy.secagg.receipt import Receipt
from tacit.server.attempts import RunFailed

from .masked import Handler, Masked, some_rows

PROMISE = [
    "privacy.unit=client",
    "privacy.noise_multiplier=2",
    "secure_aggregation.min_cohort=3",
    "training.quorum=0.5",
]
PERMISSIVE: dict[str, Any] = {
    "approved": {"models": ["logistic"], "statistics": ["examples", "counts", "moments"], "metrics": ["loss"]},
    "privacy": {
        "epsilon_total": 20.0,
        "accept_promised_noise": True,
        "promised_epsilon_total": 20.0,
        "noise_places": ["distributed", "central", "local"],
    },
    "secure_aggregation": {"min_cohort": 3},
}


def policy(**changes: dict[str, Any]) -> Policy:
    """Return a policy that lets the runs below pass, with keys changed by table."""
    tables = {table: {**PERMISSIVE.get(table, {}), **changes.get(table, {})} for table in {*PERMISSIVE, *changes}}
    return Policy.model_validate(tables)


@dataclass
class Owned:
    """Clients whose directories outlive every process of theirs."""

    directory: Path
    policies: dict[str, Policy] = field(default_factory=dict)
    consents: dict[str, Consent] = field(default_factory=dict)

    def federation(self, overrides: Sequence[str] = (), **given: Any) -> Masked:
        """Start a federation whose agents find their directories as they were left."""
        self.close()
        federation = Masked([*PROMISE, *overrides], **given)
        for agent in federation.agents.values():
            member = agent._member
            assert member is not None
            member.membership = self.member(member.membership, agent)
        return federation

    def restart(self, federation: Masked, client: str) -> None:
        """Let a client lose its memory, and find its directory as it was left."""
        self.consents[client].journal.close()
        (agent,) = (agent for agent in federation.agents.values() if agent.client == client)
        assert agent._member is not None
        agent.join(self.member(agent._member.membership, agent))

    def member(self, membership: Membership, agent: Agent) -> Membership:
        journal = AgentJournal.open(self.directory / agent.client, membership.identity, now=lambda: 0.0)
        ours = self.policies.get(agent.client, policy())
        consent = Consent(journal, "patients", agent.bench, ours, granted(ours), now=lambda: 0.0)
        self.consents[agent.client] = consent
        return replace(membership, journal=consent, consent=consent)

    def close(self) -> None:
        for consent in self.consents.values():
            consent.journal.close()
        self.consents.clear()

    def committed(self, client: str, column: Column = "promised") -> float:
        ledger = self.consents[client].journal.ledger("patients", "client", {})
        return float(ledger.state.committed(column).divergence)

    def audit(self, client: str) -> list[dict[str, Any]]:
        """Return kind and details of every entry in a client's account."""
        lines = (self.directory / client / "audit.jsonl").read_bytes().splitlines()
        return [{"kind": entry["kind"], **entry["details"]} for entry in map(json.loads, lines)]

    def files(self, client: str) -> tuple[Path, Path]:
        ledgers = self.directory / client / "ledgers"
        return ledgers / "patients.client.ledger", ledgers / "patients.client.anchors"


def granted(ours: Policy) -> Callable[[Any], Any]:
    return lambda noise: ours.budgets(noise.terms.unit)


@contextmanager
def full_disk() -> Iterator[None]:
    """Let nothing be written by anybody."""

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "write", full)
        yield


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Owned]:
    owned = Owned(tmp_path)
    yield owned
    owned.close()


def rounds_of(federation: Masked, client: str) -> list[tuple[str, str]]:
    """Return what became of a client in each training round."""
    reports = [report for report in federation.recorder.reports if report.number]
    return [(p.outcome, p.reason) for report in reports for p in report.participants if p.client == client]


def test_every_participation_is_paid_for_and_its_head_comes_back_countersigned(owned: Owned) -> None:
    federation = owned.federation(["training.rounds=3"])
    state = federation.execute()
    assert len(state.spent) == 3
    for client in federation.names.values():
        ledger = owned.consents[client].journal.ledger("patients", "client", {})
        assert (len(ledger.state.settled), len(ledger.state.waiting), ledger.state.voided) == (3, 0, frozenset())
        # All heads came back: what is newer is that the last round was spent, after its head had left.
        assert len(owned.files(client)[1].read_bytes().splitlines()) == 3
        assert ledger.unanchored == 1


def test_a_message_that_cannot_be_read_does_not_give_back_what_the_next_one_releases(owned: Owned) -> None:
    def twice(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if instruction.action == "mask" and instruction.round:
            assert agent(replace(instruction, message=b"\0")).outcome == "refused"
        return agent(instruction)

    federation = owned.federation(["training.rounds=1"], handler=twice)
    state = federation.execute()
    # The input has left all the same: whoever says so and does not pay has a budget without end.
    assert [spent.survivors for spent in state.spent] == [10]
    honest_run = Owned(owned.directory / "honest")
    honest_run.federation(["training.rounds=1"]).execute()
    for client in federation.names.values():
        assert owned.committed(client) == honest_run.committed(client) > 0.0
    honest_run.close()


def test_a_refusal_reaches_the_coordinator_with_its_code_and_the_run_goes_on_without_the_client(owned: Owned) -> None:
    owned.policies["c03"] = policy(privacy={"min_noise_multiplier": 1e3})
    owned.policies["c04"] = policy(schedule={"weekdays": []})
    federation = owned.federation(["training.rounds=2"])
    federation.execute()
    assert [spent.survivors for spent in federation.recorder.states[2].spent] == [8, 8]
    for client, code in (("c03", "noise-floor"), ("c04", "schedule")):
        assert [outcome for outcome, _ in rounds_of(federation, client)] == ["refused", "refused"]
        assert all(reason.startswith(f"{code}: ") for _, reason in rounds_of(federation, client))
        refusals = [entry for entry in owned.audit(client) if entry["kind"] == "offer-refused" and entry["round"]]
        assert [(entry["round"], entry["code"]) for entry in refusals] == [(1, code), (2, code)]
        assert not owned.files(client)[0].exists()  # a stranger's offer opens no ledger
    kinds = [entry["kind"] for entry in owned.audit("c00")]
    assert kinds.count("ledger-reserved") == kinds.count("ledger-spent") == kinds.count("receipt-accepted") == 2


def test_the_account_says_what_was_accepted_and_every_byte_that_left(owned: Owned) -> None:
    left: list[Reply] = []

    def noted(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        reply = agent(instruction)
        if client == "c00" and instruction.action != "receipt":
            left.append(reply)
        return reply

    federation = owned.federation(["training.rounds=1"], handler=noted)
    federation.execute()
    entries = owned.audit("c00")
    messages = [entry for entry in entries if entry["kind"] == "message-left"]
    assert len(messages) == len(left) > 5
    for entry, reply in zip(messages, left, strict=True):
        vectors = [np.ascontiguousarray(vector) for vector in reply.arrays.values()]
        assert entry["bytes"] == len(reply.message) + sum(vector.nbytes for vector in vectors)
        assert entry["sha256"] == hashlib.sha256(reply.message).hexdigest()
        assert [entry[name] for name in entry if name == "vector_sha256"] == [
            hashlib.sha256(vector.data).hexdigest() for vector in vectors
        ]
    preparation, training = (entry for entry in entries if entry["kind"] == "offer-accepted")
    assert (training["name"], training["model"], training["code_sha256"]) == ("r", "logistic", None)
    assert (training["masked"], training["members"], training["data"]) == (True, 10, "patients")
    assert (training["unit"], training["noise"], training["place"]) == ("client", 2.0, "distributed")
    assert preparation["masked"] and "noise" not in preparation  # exact sums, which no noise covers
    receipts = [entry["offer"] for entry in entries if entry["kind"] == "receipt-accepted"]
    assert receipts == [training["offer"]]
    spent = [entry["survivors"] for entry in entries if entry["kind"] == "ledger-spent"]
    assert spent == [10]


def test_an_input_that_was_being_computed_when_its_owner_paused_the_agent_does_not_leave(
    owned: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = owned.federation(["training.rounds=1"])
    train = contribution.train

    def paused_meanwhile(state: Any, *given: Any) -> Any:
        if state.client == "c00":
            owned.consents["c00"].paused = lambda: True
        return train(state, *given)

    monkeypatch.setattr(contribution, "train", paused_meanwhile)
    state = federation.execute()
    assert [spent.survivors for spent in state.spent] == [9]
    assert rounds_of(federation, "c00") == [("refused", "paused: its owner has paused it")]
    assert owned.committed("c00") == 0.0 < owned.committed("c01")


def test_an_owner_limits_in_how_many_rounds_of_a_run_its_client_takes_part(owned: Owned) -> None:
    owned.policies["c07"] = policy(limits={"max_participations": 2})
    federation = owned.federation(["training.rounds=4"])
    federation.execute()
    outcomes = rounds_of(federation, "c07")
    assert [outcome for outcome, _ in outcomes] == ["reported", "reported", "refused", "refused"]
    assert all(reason.startswith("participations-limit: ") for _, reason in outcomes[2:])


def one_more_row(count: int) -> Rows:
    rows = some_rows(count)
    columns = {name: np.concatenate([values, values[:1]]) for name, values in rows.columns.items()}
    return Rows(columns, np.concatenate([rows.labels, rows.labels[:1]]))


def test_one_more_row_does_not_reset_what_a_data_set_has_spent(owned: Owned) -> None:
    first = owned.federation(["training.rounds=2"], name="first")
    first.execute()
    before = owned.committed("c00")
    # What is granted now pays for the first run, and for nothing more.
    stands_at = owned.consents["c00"].journal.ledger("patients", "client", {}).state.epsilon_committed("promised")
    narrow = {"promised_epsilon_total": 1.001 * stands_at}
    owned.policies = {client: policy(privacy=narrow) for client in first.names.values()}
    federation = owned.federation(["training.rounds=2"], rows=one_more_row, name="second")
    with pytest.raises(RunFailed, match=r"epsilon-total: "):
        federation.execute()
    assert owned.committed("c00") == before


def test_noise_as_if_the_cohort_were_larger_is_answered_by_nobody_with_an_owner(owned: Owned) -> None:
    federation = owned.federation(["privacy.noise_cohort=100", "training.rounds=1"])
    with pytest.raises(RunFailed, match="hypothetical-noise"):
        federation.execute()
    assert not any("mask" == sent.action and sent.round for sent in federation.sent)


def test_noise_that_the_coordinator_says_it_makes_counts_for_nothing_that_the_owner_can_rely_on(owned: Owned) -> None:
    # It may say of its noise what it likes; and whether it makes any, nobody sees.
    federation = owned.federation(["privacy.noise=central", "training.rounds=2"])
    federation.execute()
    for client in federation.names.values():
        assert owned.committed(client, "assured") == 0.0 < owned.committed(client, "promised")


def test_an_owner_that_relies_on_nobody_lets_no_promised_noise_pass(owned: Owned) -> None:
    careful = policy(privacy={"accept_promised_noise": False, "promised_epsilon_total": None})
    owned.policies = {f"c{index:02d}": careful for index in range(10)}
    # Nor does it count what members do whose organisations nobody has pinned.
    for noise in ("central", "distributed"):
        federation = owned.federation([f"privacy.noise={noise}", "training.rounds=1"], name=noise)
        with pytest.raises(RunFailed, match="promised-noise: "):
            federation.execute()
        assert not any(sent.action == "mask" and sent.round for sent in federation.sent)


def test_a_ledger_that_was_rolled_back_keeps_its_client_out(owned: Owned) -> None:
    first = owned.federation(["training.rounds=2"], name="first")
    first.execute()
    owned.close()
    ledger, anchors = owned.files("c05")
    lines = ledger.read_bytes().splitlines(keepends=True)
    assert len(anchors.read_bytes().splitlines()) == 2
    ledger.write_bytes(b"".join(lines[:3]))  # the first round alone: a copy from before the second
    second = owned.federation(["training.rounds=1"], name="second")
    second.execute()
    ((outcome, reason),) = rounds_of(second, "c05")
    assert (outcome, "countersigned" in reason or "missing" in reason) == ("refused", True)
    with pytest.raises(LedgerBroken):
        owned.consents["c05"].journal.ledger("patients", "client", {})
    assert ledger.read_bytes() == b"".join(lines[:3])  # and nothing was written to it
    assert {outcome for outcome, _ in rounds_of(second, "c04")} == {"reported"}


Change = Callable[[Receipt], Receipt]


def restarting(owned: Owned, federation: Masked, change: Callable[[bytes], bytes] = lambda data: data) -> Handler:
    """Have c02 lose its memory, and not its directory, before the second round, and change its receipt of the first."""

    def handler(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if client == "c02" and (instruction.action, instruction.round) == ("advertise", 2):
            owned.restart(federation, client)
            return agent(replace(instruction, receipt=change(instruction.receipt)))
        return agent(instruction)

    return handler


def test_a_restart_loses_no_countersignature_and_no_round(owned: Owned) -> None:
    federation = owned.federation(["training.rounds=3"])
    federation.handler = restarting(owned, federation)
    federation.execute()
    assert rounds_of(federation, "c02") == [("reported", "")] * 3
    (restarted,) = (agent for agent in federation.agents.values() if agent.client == "c02")
    assert restarted.receipts_checked == 3, "the first was checked against the ledger, the others as ever"
    assert len(owned.files("c02")[1].read_bytes().splitlines()) == 3
    ledger = owned.consents["c02"].journal.ledger("patients", "client", {})
    assert ledger.unanchored == 1
    kinds = [entry["kind"] for entry in owned.audit("c02")]
    assert kinds.count("receipt-accepted") == 3
    # The preparation cost nothing and went through no ledger; who has lost its memory knows nothing of it.
    assert kinds.count("receipt-unknown") == 0


def signed(change: Callable[[Receipt], Receipt], federation: Masked) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        assert federation.masking is not None
        return change(Receipt.decode(data)).signed(federation.masking.identity).encode()

    return changed


@pytest.mark.parametrize("restarted", [False, True])
def test_a_disk_that_is_full_in_whatever_step_costs_the_round_alone(owned: Owned, restarted: bool) -> None:
    steps = ("share", "mask", "sign", "unmask", "advertise")  # the last one with the receipt of the round before
    tried: list[str] = []

    def handler(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if client != victim or instruction.round == 0:
            return agent(instruction)
        at = instruction.round - 1
        if at % 2 or instruction.action != steps[at // 2]:
            return agent(instruction)
        with full_disk():
            reply = agent(instruction)
        tried.append(instruction.action)
        assert reply.outcome == "failed" and not reply.message and not reply.arrays
        if restarted:
            owned.restart(federation, client)
        return reply

    federation = owned.federation([f"training.rounds={2 * len(steps)}"], handler=handler)
    victim = sorted(agent.client for agent in federation.agents.values())[0]
    federation.execute()
    assert tried == list(steps)
    outcomes = [outcome for outcome, _ in rounds_of(federation, victim)]
    # Its input is in the sum of a round in which the disk was full only after it had left.
    full = ("dropped", "dropped", "reported", "reported", "dropped")
    assert outcomes == [outcome for step in full for outcome in (step, "reported")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda receipt: replace(receipt, ledger_counter=receipt.ledger_counter + 1), "bad-receipt"),
        (lambda receipt: replace(receipt, ledger_head=bytes(32)), "bad-receipt"),
        (lambda receipt: replace(receipt, client="c03"), "bad-receipt"),
        (lambda receipt: replace(receipt, survivors=("c03", "c04")), "bad-receipt"),
    ],
    ids=["another counter", "another head", "another's", "without us"],
)
def test_a_wrong_receipt_is_refused_after_a_restart_too(owned: Owned, change: Change, reason: str) -> None:
    federation = owned.federation(["training.rounds=3"])
    federation.handler = restarting(owned, federation, lambda data: signed(change, federation)(data))
    federation.execute()
    outcomes = rounds_of(federation, "c02")
    assert outcomes[1][0] == "refused" and outcomes[1][1].startswith(reason) and outcomes[2] == ("reported", "")


def test_a_receipt_about_nothing_that_a_ledger_here_ever_paid_for_is_written_down_and_passed_over(owned: Owned) -> None:
    federation = owned.federation(["training.rounds=2"])
    strange = b"\x0c" + bytes(64)
    federation.handler = restarting(owned, federation, lambda data: strange)
    federation.execute()
    assert rounds_of(federation, "c02") == [("reported", "")] * 2
    noted = [entry for entry in owned.audit("c02") if entry["kind"] == "receipt-unknown"]
    assert noted == [{"kind": "receipt-unknown", "sha256": sha256(strange).hex()}]
    assert len(owned.files("c02")[1].read_bytes().splitlines()) == 1, "nothing countersigned the first round"


def test_a_receipt_that_countersigns_what_is_not_there_shows_that_a_disk_was_rolled_back(owned: Owned) -> None:
    """Before the first head came back there is no anchor that could show it; the coordinator's receipt does."""
    federation = owned.federation(["training.rounds=3"])
    ledger, anchors = owned.files("c02")

    def handler(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if client == "c02" and (instruction.action, instruction.round) == ("advertise", 2):
            owned.consents["c02"].journal.close()
            lines = ledger.read_bytes().splitlines(keepends=True)
            assert anchors.read_bytes() == b""
            ledger.write_bytes(lines[0])
            owned.restart(federation, client)
        return agent(instruction)

    federation.handler = handler
    federation.execute()
    outcome, reason = rounds_of(federation, "c02")[1]
    assert outcome == "refused" and "countersigned, and no ledger here has it" in reason

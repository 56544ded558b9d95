"""What a federation must be able to show after whatever happened to it: its books, read and held against each other."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tacit.__main__ import run
from tacit.client.directory import AgentDirectory
from tacit.client.journal import ROUNDS
from tacit.client.lines import read_lines
from tacit.models.checkpoint import read_artifact
from tacit.privacy.ledger import Ledger
from tacit.server.checkpoints import Checkpoints
from tacit.server.population_ledger import read_ledger
from tacit.server.registry import Registry
from tacit.server.store import RoundRecord, RunRecord, Store

Attempt = tuple[int, int]  # the round's number, and which attempt at it
Commitment = tuple[int, str]  # the attempt that counts, and the digest of the state after it


def commitments(rounds: Sequence[RoundRecord]) -> dict[int, Commitment]:
    """Return what is committed, by round."""
    return {
        one.number: (one.attempt, one.checkpoint.sha256 if one.checkpoint else "")
        for one in rounds
        if one.outcome == "committed"
    }


@dataclass
class Books:
    """What was found.

    Attributes:
        faults: what must not be, in words.
        rounds: how many training rounds are committed.
        attempts: how many attempts at them were kept.
        without_sum: how many of the rounds ended without one.
        lost_rounds: how many are missing, or were committed once and are not any more.
        double_spends: how many inputs left an agent for a round that another of its inputs had left for.
        inputs: how many inputs left.
    """

    faults: list[str] = field(default_factory=list)
    rounds: int = 0
    attempts: int = 0
    without_sum: int = 0
    lost_rounds: int = 0
    double_spends: int = 0
    inputs: int = 0

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note what does not hold."""
        if not holds:
            self.faults.append(otherwise)

    def check_hub(
        self, store: Store, registry: Registry, run: RunRecord, seen: Mapping[int, Commitment], wanted: int, unit: str
    ) -> tuple[Ledger, int]:
        """Check the coordinator's side, and return its ledger and how many attempts the last state says were spent.

        Args:
            store: its database.
            registry: its models.
            run: the one run.
            seen: whatever was seen committed while it ran.
            wanted: the rounds that the recipe asks for.
            unit: of the promise.
        """
        kept = store.rounds(run.run)
        there = commitments(kept)
        training = [one for one in kept if one.number]
        self.rounds = sum(one.outcome == "committed" for one in training)
        self.attempts = len(training)
        self.without_sum = sum(one.outcome == "committed" and _is_without_sum(one) for one in training)
        missing = set(range(wanted + 1)) - set(there)
        changed = {number for number, known in seen.items() if there.get(number) != known}
        self.lost_rounds = len(missing | changed)
        self.expect(run.status == "finished", f"the run is {run.status}: {run.reason}")
        self.expect(self.rounds == wanted, f"{self.rounds} rounds are committed, not {wanted}")
        self.expect(not missing, f"rounds {sorted(missing)} are missing")
        self.expect(not changed, f"rounds {sorted(changed)} were committed, and are not what they were")
        state = self._check_checkpoints(kept, Checkpoints(Path(run.directory) / "checkpoints"), wanted)

        population = json.loads((Path(run.directory) / "privacy.json").read_text())["population_ledger"]["population"]
        ledger = read_ledger(store, population, unit)  # verifies every record
        assert ledger is not None
        paid = Counter(key[1:3] for key in ledger.settled - ledger.voided if key[0] == run.run)
        for number, (attempt, _) in there.items():
            record = next(one for one in training if (one.number, one.attempt) == (number, attempt)) if number else None
            if record is not None and not (_is_without_sum(record) and not _sent(record)):
                self.expect(
                    paid[number, attempt] == 1, f"round {number} is not paid for once, but {paid[number, attempt]}"
                )

        versions = store.list_versions(run.recipe_name)
        self.expect(len(versions) == 1, f"the model is registered {len(versions)} times")
        for version in versions:
            self.expect(version.run == run.run, "the model is another run's")
            read_artifact(registry.path(version), version.digest)
        return ledger, state

    def _check_checkpoints(self, kept: Sequence[RoundRecord], checkpoints: Checkpoints, wanted: int) -> int:
        """Check that every round points at a state of its own, and that the last two can be read."""
        counted = {one.number: one.checkpoint for one in kept if one.outcome == "committed"}
        self.expect(all(counted.values()), "a committed round has no state")
        states = {}
        for number in (wanted - 1, wanted):
            if (reference := counted.get(number)) is not None:
                states[number] = checkpoints.read(reference)  # which compares the digests
                self.expect(states[number].round == number, f"the state of round {number} is another round's")
        left = sorted(path.name for path in checkpoints.directory.glob("*.tmp"))
        self.expect(not left, f"half a state is left: {left}")
        return len(states[wanted].spent) if wanted in states else 0

    def check_agents(
        self, agents: Mapping[str, Path], hub: Ledger, run: RunRecord, spent: int, deaths: Mapping[str, int]
    ) -> None:
        """Check every agent's books, and that the coordinator's show no less than they do.

        Args:
            agents: the directories.
            hub: the coordinator's ledger.
            run: the one run.
            spent: how many attempts the run's last state counts as spent.
            deaths: how often each agent was killed or could not write.
        """
        asked: set[Attempt] = set()
        for name, path in agents.items():
            given = self._check_agent(name, AgentDirectory.open(path), run.run, deaths.get(name, 0))
            self.inputs += len(given)
            asked |= given
            # A reservation that a crash left open counts as spent for ever.
            known = {key[1:3] for key in (hub.settled - hub.voided) | set(hub.waiting) if key[0] == run.run}
            self.expect(
                given <= known, f"{name} gave to {sorted(given - known)}, which the coordinator has not paid for"
            )
        self.expect(len(asked) <= spent, f"inputs left for {len(asked)} attempts, and the run counts {spent}")

    def _check_agent(self, name: str, directory: AgentDirectory, run: str, deaths: int) -> set[Attempt]:
        """Return the attempts that an input left for."""
        shown = [_tacit("agent", "audit", "verify", "--dir", str(directory.path))]
        shown.append(_tacit("agent", "ledger", "--dir", str(directory.path), "--format", "json"))
        self.expect(all(code == 0 for code, _ in shown), f"{name}: {[said for _, said in shown]}")

        journal = [json.loads(line) for line in read_lines(directory.path / ROUNDS)]
        contributions = [values for what, *values in journal if what == "contribution" and values[0] == run]
        self.double_spends += len(contributions) - len({number for _, number in contributions})

        account = [json.loads(line) for line in directory.account_lines()]
        inputs: defaultdict[int, set[tuple[int, str]]] = defaultdict(set)
        for at in _about(account, "message-left", run):
            if at["what"] == "mask" and at["round"]:
                inputs[at["round"]].add((at["attempt"], at["sha256"]))
        twice = {number: left for number, left in inputs.items() if len(left) > 1}
        self.double_spends += sum(len(left) - 1 for left in twice.values())
        self.expect(not twice, f"{name}: more than one input left for rounds {sorted(twice)}")
        given = {(number, attempt) for number, left in inputs.items() for attempt, _ in left}
        written = {number for _, number in contributions if number}
        self.expect(set(inputs) <= written, f"{name}: the journal does not know of {sorted(set(inputs) - written)}")

        ((dataset, unit),) = directory.ledgers()
        ledger = directory.ledger(dataset, unit).ledger  # verified with what came back countersigned
        paid = {key[1:3] for key in (ledger.settled - ledger.voided) | set(ledger.waiting) if key[0] == run}
        self.expect(given <= paid, f"{name}: unpaid inputs left: {sorted(given - paid)}")
        self.expect(
            len(paid - given) <= deaths,
            f"{name}: {sorted(paid - given)} are paid for and nothing left, {deaths} deaths",
        )
        every = {key[1:3] for key in ledger.settled | set(ledger.waiting) if key[0] == run}
        reserved = {(at["round"], at["attempt"]) for at in _about(account, "ledger-reserved", run)}
        self.expect(reserved <= every, f"{name}: the account has {sorted(reserved - every)}, the ledger has not")
        # Between the ledger's record and the account's entry an agent can die, once in each of its lives.
        unnoted = every - reserved
        self.expect(len(unnoted) <= deaths, f"{name}: the account lacks {sorted(unnoted)}, more than {deaths} deaths")
        return given


def _is_without_sum(record: RoundRecord) -> bool:
    return str(record.extra.get("reason", "")).startswith(("over without a sum", "the cohort was empty"))


def _sent(record: RoundRecord) -> bool:
    """Say whether anybody was asked for an input."""
    return any(one.exchange not in ("advertise", "share") for one in record.participation)


def _about(account: Sequence[Mapping[str, Any]], kind: str, run: str) -> list[Mapping[str, Any]]:
    return [one["details"] for one in account if one["kind"] == kind and one["details"]["run"] == run]


def _tacit(*words: str) -> tuple[int, str]:
    """Run a command as the console script does, and return its exit code and what it said on standard error."""
    errors = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(errors):
        code = run(words)
    return code, errors.getvalue()

"""Whether an agent takes part in a round, and that its ledger has paid before anything leaves.

Between the policy, which says no, the ledger, which says what is left, and the protocol's machine, which remembers what
left: the one place that knows all three. A reservation is on disk before an input leaves; it is spent at the number of
survivors that t signatures prove, at the fewest where they do not, and given back only where nothing left.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from tacit.client.account import at, failure, told
from tacit.client.asked import Answer, Refuse, Used
from tacit.client.audit import Detail
from tacit.client.contribution import offered_noise
from tacit.client.demand import asked_of, statistics_of
from tacit.client.journal import AgentJournal
from tacit.client.ledger import Budgets, DatasetLedger
from tacit.client.policy import Policy
from tacit.client.training import Workbench
from tacit.models import broadcast
from tacit.models.evaluation_only import EVALUATION_ROUND
from tacit.models.messages import RECEIPT_ACTION, Instruction
from tacit.models.noise import NoisePlan, noise_plan
from tacit.models.plan import Plan, decode_plan
from tacit.models.spending import entry, ledger_event
from tacit.privacy.codec import sha256
from tacit.privacy.errors import PrivacyError, RemoteProtocolError
from tacit.privacy.identity import Pins
from tacit.privacy.ledger import Anchor, LedgerBroken
from tacit.privacy.records import Entry, NoiseBy
from tacit.privacy.secagg.offer import Offer
from tacit.privacy.secagg.receipt import Receipt
from tacit.privacy.terms import Unit

AttemptKey = tuple[str, int, int]
MOST_OPEN = 8  # attempts whose survivors or receipt may still come


class PolicyRefusal(PrivacyError):
    """The owner's policy, or the ledger, says no; the text starts with a stable code and goes to the coordinator."""

    def __init__(self, refusal: Refuse) -> None:
        """Keep the code for the account."""
        self.refusal = refusal
        super().__init__(str(refusal))


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


@dataclass
class _Reserved:
    plan: NoisePlan
    entry: Entry
    ledger: DatasetLedger


@dataclass
class Consent:
    """One agent's say over one data set; also the `Journal` of the protocol's machine.

    Attributes:
        journal: what the agent must not lose.
        dataset: the data set's name in the owner's register.
        bench: knows the size of a plan's network.
        policy: the owner's; None in a simulation, whose clients have no owners.
        budgets: what a new ledger is granted, given the noise of the round that opens it.
        now: seconds since 1970, for the policy's schedule.
        hypothetical: answer for noise as if the cohort were larger, as a simulation's members do and no others.
        paused: whether the owner has paused the agent; asked before an offer is judged, before an input is computed,
            and before it leaves.
    """

    journal: AgentJournal
    dataset: str
    bench: Workbench
    policy: Policy | None
    budgets: Callable[[NoisePlan], Budgets]
    now: Callable[[], float]
    hypothetical: bool = False
    paused: Callable[[], bool] = _never
    _open: dict[AttemptKey, _Reserved] = field(default_factory=dict)
    _ledgers: dict[Unit, DatasetLedger] = field(default_factory=dict)
    _refused: Callable[[], PrivacyError | None] = _nothing

    @property
    def pins(self) -> Pins | None:
        """Return the organisations that the owner knows, if it named any."""
        return self.policy.pins if self.policy is not None else None

    # What is asked

    def judge(self, instruction: Instruction, offer: Offer | None) -> None:
        """Let an offer pass, or say no before anything is computed for it; the account has it either way.

        Args:
            instruction: brings the plan and the vector.
            offer: the masked round's; None for a step without masks.

        Raises:
            PolicyRefusal: with the code and the reason.
            RemoteProtocolError: the offer is not what the plan says.
        """
        plan = decode_plan(instruction.plan)
        details = {**at(instruction), **told(plan.recipe, offer), "data": self.dataset}
        try:
            noise = self._judge(plan, instruction, offer)
        except PrivacyError as error:
            code = error.refusal.code if isinstance(error, PolicyRefusal) else "refused"
            self._note("offer-refused", **details, code=code, reason=str(error))
            self._refused = weakref.ref(error)  # the error itself would keep a whole model alive
            raise
        if noise is not None:
            details |= {"noise": noise.noise_multiplier, "place": noise.terms.place}
        self._note("offer-accepted", **details)

    def _judge(self, plan: Plan, instruction: Instruction, offer: Offer | None) -> NoisePlan | None:
        """Return the promise of a round that passes; None where there is none."""
        recipe = plan.recipe
        self.check_running()
        self._check_room(instruction)
        if recipe.privacy.noise_cohort and not self.hypothetical:
            raise RemoteProtocolError("hypothetical-noise", "noise as if the cohort were larger protects nobody here")
        if recipe.evaluation.only and instruction.round != EVALUATION_ROUND:
            raise RemoteProtocolError("other-round", "an evaluation is one round, and asks in no other one")
        used = Used(participations=self.journal.participations(instruction.run))
        if self.policy is not None:
            asked = asked_of(plan, instruction, offer, None, None)
            self._let_pass(self.policy.judge_before_cost(asked, used, self.now()))
            self._check_network(plan, instruction)
        noise = self._noise(plan, instruction, offer)
        reserved = None if noise is None else self._entry(noise, instruction, offer)
        if self.policy is not None:
            asked = asked_of(plan, instruction, offer, noise, reserved)
            self._let_pass(self.policy.judge(asked, used, self.now()))  # before a stranger's offer opens a ledger
        if noise is None or reserved is None:
            return None
        ledger = self._ledger(noise)
        if ledger is None:
            raise PolicyRefusal(Refuse("no-budget", "nothing was granted for this"))
        events = ledger.events_of(instruction.run)
        # The ledger also counts every attempt at a round that was answered without masks.
        used = Used(ledger.state, events, max(used.participations, sum(map(len, events.values()))))
        if used.participations >= noise.horizon:
            text = f"its noise is for {noise.horizon} rounds of one client, and so many have left"
            raise PolicyRefusal(Refuse("participations-limit", text))
        if self.policy is not None:
            self._let_pass(self.policy.judge(asked, used, self.now()))
        if not ledger.allows([reserved]):
            raise PolicyRefusal(Refuse("budget-spent", "the data would stand above what was granted at first"))
        return noise

    def _check_room(self, instruction: Instruction) -> None:
        size = broadcast.size_of(instruction.arrays)
        if size is not None and not self.bench.lent.has_room(size):
            text = f"a vector of {size} does not fit into the memory that its owner lends"
            raise PolicyRefusal(Refuse("memory-limit", text))

    def _check_network(self, plan: Plan, instruction: Instruction) -> None:
        """Refuse a network of another size than the vector, which is what the limits were asked about."""
        size = broadcast.size_of(instruction.arrays)
        if not statistics_of(plan, instruction) and not self.bench.fits(instruction.plan, plan, size):
            raise RemoteProtocolError("other-model", f"a vector of {size or 0} is none of the plan's network")

    def check_running(self) -> None:
        """Refuse to go on while the owner has paused the agent; raises `PolicyRefusal`."""
        if self.paused():
            raise PolicyRefusal(Refuse("paused", "its owner has paused it"))

    @staticmethod
    def _let_pass(answer: Answer) -> None:
        if isinstance(answer, Refuse):
            raise PolicyRefusal(answer)

    def objections(self, instruction: Instruction, offer: Offer | None) -> list[Refuse]:
        """Return every reason that the policy has against an offer, before anything is spent; nothing is written."""
        if self.policy is None:
            return []
        plan, noise, reserved = decode_plan(instruction.plan), None, None
        with suppress(PrivacyError):  # noise that cannot be made is a reason of its own
            noise = self._noise(plan, instruction, offer)
            reserved = None if noise is None else self._entry(noise, instruction, offer)
        asked = asked_of(plan, instruction, offer, noise, reserved)
        used = Used(participations=self.journal.participations(instruction.run))
        return list(self.policy.refusals(asked, used, self.now()))

    def cost(self, instruction: Instruction, offer: Offer | None) -> Entry | None:
        """Return what a round would have reserved; None where it promises nothing."""
        noise = self._noise(decode_plan(instruction.plan), instruction, offer)
        return None if noise is None else self._entry(noise, instruction, offer)

    # What leaves

    def reserve(self, instruction: Instruction, offer: Offer | None) -> Anchor | None:
        """Reserve what a round costs; on disk when this returns. None where nothing is promised, so nothing is counted.

        Raises:
            PolicyRefusal: the owner has paused the agent since the offer came.
            BudgetExceeded: the ledger cannot pay.
            PrivacyError: this attempt was reserved before.
        """
        self.check_running()
        noise = self._noise(decode_plan(instruction.plan), instruction, offer)
        if offer is None:  # of a masked input the protocol's machine says so
            self.journal.record_contribution(instruction.run, instruction.round)
        if noise is None:
            return None
        reserved, ledger = self._entry(noise, instruction, offer), self._ledger(noise)
        if ledger is None:
            raise PolicyRefusal(Refuse("no-budget", "nothing was granted for this"))
        anchor = ledger.reserve([reserved])
        self._open[_key(instruction)] = _Reserved(noise, reserved, ledger)
        if len(self._open) > MOST_OPEN:
            del self._open[next(iter(self._open))]
        self._note("ledger-reserved", run=reserved.run, round=reserved.round, attempt=reserved.attempt)
        return anchor

    def spend(self, key: AttemptKey, survivors: int | None = None) -> None:
        """Settle a reservation at a number of survivors, or as it was made, once; without one, nothing happens."""
        open_ = self._open.get(key)
        if open_ is None or open_.entry.key not in open_.ledger.state.waiting:
            return
        least = open_.plan.min_survivors
        event = None if survivors is None or survivors < least else ledger_event(open_.plan, survivors)
        open_.ledger.spend(open_.entry.key, event)
        self._note("ledger-spent", run=key[0], round=key[1], attempt=key[2], survivors=survivors)

    def void(self, key: AttemptKey) -> None:
        """Give a reservation back: nothing left."""
        if (open_ := self._open.pop(key, None)) is not None:
            open_.ledger.void(open_.entry.key)
            self._note("ledger-void", run=key[0], round=key[1], attempt=key[2])

    def left(self, instruction: Instruction, message: bytes, vector: NDArray[Any] | None = None) -> None:
        """Put a message that is about to leave into the account, by its digest.

        Args:
            instruction: what it answers.
            message: the message.
            vector: the masked one that goes with it; the message names its digest too.
        """
        if self.policy is None:
            return
        details = {**at(instruction), "what": instruction.action, "sha256": sha256(message).hex()}
        size = len(message)
        if vector is not None:
            details["vector_sha256"], size = sha256(vector.data).hex(), size + vector.nbytes
        self._note("message-left", **details, bytes=size)

    def owed(self, offer_digest: bytes) -> Anchor | None:
        """Return the ledger's head that went out for an offer, as the ledger itself says: a restart forgets nothing.

        Raises:
            LedgerBroken: the ledger is not what was written here.
        """
        found = self._paid(offer_digest)
        return None if found is None else found[1]

    def failed(self, instruction: Instruction, what: str, error: Exception) -> None:
        """Put into the account that a step or a receipt was refused; an offer that `judge` refused is there already."""
        if error is self._refused():
            return
        kind = "receipt-refused" if what == RECEIPT_ACTION else "round-failed"
        self._note(kind, **at(instruction), what=what, **failure(error))

    def countersigned(self, receipt: Receipt) -> None:
        """Keep the ledger's head that came back in a receipt.

        Raises:
            LedgerBroken: it is none of this ledger's.
        """
        if not receipt.ledger_counter:
            return
        anchor = Anchor(receipt.ledger_counter, receipt.ledger_head)
        if (paid := self._paid(receipt.offer_digest)) is not None:
            paid[0].countersigned(anchor)
        for key, open_ in list(self._open.items()):
            if open_.entry.offer == receipt.offer_digest:
                del self._open[key]
        self._note("receipt-accepted", offer=receipt.offer_digest.hex(), counter=anchor.counter)

    def unknown_receipt(self, digest: bytes, receipt: Receipt | None) -> None:
        """Put a receipt for a round that no ledger here has paid for into the account, by its digest.

        Raises:
            LedgerBroken: the coordinator signed it for this member, and it countersigns a record that is not there: the
                end of a ledger was lost, as when a disk was rolled back.
        """
        self._note("receipt-unknown", sha256=digest.hex())
        if receipt is not None and receipt.ledger_counter:
            raise LedgerBroken(receipt.ledger_counter, "was countersigned, and no ledger here has it")

    def _paid(self, offer_digest: bytes) -> tuple[DatasetLedger, Anchor] | None:
        """Return the ledger that paid for an offer, and its head at that time."""
        for ledger in self.journal.kept_ledgers():
            if (anchor := ledger.reserved_for(offer_digest)) is not None:
                return ledger, anchor
        return None

    # The protocol's memory

    def answered(self, run: str, round: int, attempt: int) -> bool:
        """Say whether this attempt's offer was ever answered."""
        return self.journal.answered(run, round, attempt)

    def contributed(self, run: str, round: int) -> bool:
        """Say whether an input ever left for this round."""
        return self.journal.contributed(run, round)

    def record_answer(self, run: str, round: int, attempt: int) -> None:
        """Remember that an offer is about to be answered."""
        self.journal.record_answer(run, round, attempt)

    def record_contribution(self, run: str, round: int) -> None:
        """Remember that an input is about to leave."""
        self.journal.record_contribution(run, round)

    def record_survivors(self, run: str, round: int, attempt: int, digest: bytes, survivors: int) -> None:
        """Remember the survivors that are about to be signed."""
        self.journal.record_survivors(run, round, attempt, digest, survivors)

    def _noise(self, plan: Plan, instruction: Instruction, offer: Offer | None) -> NoisePlan | None:
        """Return the promise of a round that asks for an update; None where there is none."""
        parameters = broadcast.size_of(instruction.arrays)
        if plan.recipe.privacy.unit == "none" or parameters is None or statistics_of(plan, instruction):
            return None
        if offer is not None:
            return offered_noise(plan, parameters, offer)
        # Only central noise depends on more than the recipe says, and that is never the agent's own.
        privacy = plan.recipe.privacy
        unknown = privacy.noise == "central" and privacy.noise_multiplier is None
        if unknown and self.policy is not None:
            raise RemoteProtocolError("unknown-noise", "the recipe does not say how much noise the coordinator adds")
        return noise_plan(plan.recipe, parameters, 2, noise_multiplier=1.0 if unknown else None)

    def _entry(self, noise: NoisePlan, instruction: Instruction, offer: Offer | None) -> Entry:
        digest = sha256(instruction.plan) if offer is None else offer.digest
        return entry(noise, *_key(instruction), digest, self._made_by(noise))

    def _made_by(self, noise: NoisePlan) -> NoiseBy:
        if noise.terms.place == "local":
            return "own"
        return "pinned" if noise.terms.place == "distributed" and self.pins is not None else "promised"

    def _ledger(self, noise: NoisePlan) -> DatasetLedger | None:
        unit = noise.terms.unit
        if unit not in self._ledgers:
            budgets = self.budgets(noise)
            if not budgets:
                return None
            self._ledgers[unit] = self.journal.ledger(self.dataset, unit, budgets)
        return self._ledgers[unit]

    def _note(self, kind: str, **details: Detail) -> None:
        if self.policy is not None:
            self.journal.audit.append(kind, **details)


def _key(instruction: Instruction) -> AttemptKey:
    return instruction.run, instruction.round, instruction.attempt

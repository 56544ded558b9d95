"""A coordinator that shows its members different things, and asks what no ledger pays for: it learns nothing by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tacit.models.messages import Instruction, Reply
from tacit.privacy.secagg.unmasking import Survivors

from .test_owned_ledgers import Owned


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Owned]:
    owned = Owned(tmp_path)
    yield owned
    owned.close()


def test_a_member_that_is_shown_more_survivors_than_are_summed_pays_for_those_that_are(owned: Owned) -> None:
    """Its own signature proves nothing: only those of t others show that no smaller set can be unmasked as well."""

    def shows_all_to_one(client: str, instruction: Instruction, agent: Callable[[Instruction], Reply]) -> Reply:
        if instruction.round and instruction.action == "mask" and client in ("c08", "c09"):
            agent(instruction)
            return Reply("failed", "lost")  # what came of two is left out of the sum
        if instruction.round and instruction.action == "sign" and client == "c00":
            said = Survivors.decode(instruction.message)
            assert len(said.members) == 8
            shown = Survivors(said.holders_transcript, tuple(range(10)))
            return agent(Instruction("sign", "run", 1, instruction.attempt, b"", message=shown.encode()))
        return agent(instruction)

    federation = owned.federation(["training.rounds=1"], handler=shows_all_to_one)
    state = federation.execute()
    assert [spent.survivors for spent in state.spent] == [8]  # and the input of the one is in this sum
    honest = Owned(owned.directory / "honest")
    lost = lambda client, action, number, attempt: bool(number) and action == "mask" and client >= 8  # noqa: E731
    honest.federation(["training.rounds=1"], vanish=lost).execute()
    assert owned.committed("c00") >= honest.committed("c01") > 0.0
    assert owned.committed("c01") == honest.committed("c01")
    honest.close()


@pytest.mark.parametrize("lost", ["sign", "unmask"])
def test_a_member_that_the_last_exchange_does_not_reach_learns_the_survivors_from_the_receipt(
    owned: Owned, lost: str
) -> None:
    def vanish(client: int, action: str, number: int, attempt: int) -> bool:
        return (client, action, number) == (0, lost, 1)

    federation = owned.federation(["training.rounds=2"], vanish=vanish)
    state = federation.execute()
    assert [spent.survivors for spent in state.spent] == [10, 10]
    assert owned.committed("c00") == owned.committed("c01") > 0.0

"""What the page says was spent is what the ledger says, record by record, and a ledger that was touched says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tacit.client.directory import AgentDirectory
from tacit.client.page.budget import Purse
from tacit.privacy.identity import Identity
from tacit.privacy.records import Entry

from .owned import NOISE, made


@pytest.fixture
def owner(tmp_path: Path) -> AgentDirectory:
    return made(tmp_path / "ward-7")


def purse(owner: AgentDirectory, key: bytes | None = None) -> Purse:
    found = Purse(owner.path, "patients", "client", key or owner.identity.public_key)
    found.refresh()
    return found


def test_what_was_spent_is_what_the_whole_ledger_says(owner: AgentDirectory) -> None:
    found, verified = purse(owner), owner.ledger("patients", "client")
    assert found.broken == "" and found.records == verified.ledger.counter
    assert found.records - found.confirmed == verified.unanchored
    by_column = {spent.column: spent for spent in found.spent}
    promised = by_column["promised"]
    assert promised.epsilon == verified.ledger.epsilon_committed("promised") > 0.0
    assert promised.by_run == {"run-1": promised.epsilon}
    budget = verified.ledger.opening.budgets["promised"]
    assert promised.share == pytest.approx(verified.ledger.committed("promised").divergence / budget.limit)
    assert (by_column["assured"].epsilon, by_column["assured"].share) == (0.0, 0.0)


def test_a_record_that_is_added_while_the_page_looks_is_counted(owner: AgentDirectory) -> None:
    found = purse(owner)
    (before,) = (spent for spent in found.spent if spent.column == "promised")
    with owner.journal() as journal:
        ledger = journal.ledger("patients", "client", {})
        ledger.reserve([Entry("run-3", 1, 0, bytes(32), "Gaussian", NOISE, 1e-5, "promised")])
        found.refresh()
    (after,) = (spent for spent in found.spent if spent.column == "promised")
    # A reservation counts as spent until it is given back.
    assert after.epsilon > before.epsilon and list(after.by_run) == ["run-1", "run-3"]
    assert after.epsilon == owner.ledger("patients", "client").ledger.epsilon_committed("promised")


def test_a_ledger_of_another_key_is_not_believed(owner: AgentDirectory) -> None:
    found = purse(owner, Identity(b"\7" * 32).public_key)
    assert found.broken == "record 1: not signed by the owner" and found.spent == []


def test_a_ledger_that_ends_before_what_was_countersigned_is_not_believed(owner: AgentDirectory) -> None:
    path = owner.path / "ledgers" / "patients.client.ledger"
    content = path.read_bytes()
    path.write_bytes(b"".join(content.splitlines(keepends=True)[:2]))
    found = purse(owner)
    assert "end before what was countersigned" in found.broken
    path.write_bytes(content)
    found.refresh()
    assert found.broken == ""


def test_a_ledger_that_was_cut_while_the_page_looks_is_read_anew(owner: AgentDirectory) -> None:
    found = purse(owner)
    path = owner.path / "ledgers" / "patients.client.ledger"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    found.refresh()
    assert "end before what was countersigned" in found.broken


def test_an_altered_record_is_not_believed(owner: AgentDirectory) -> None:
    path = owner.path / "ledgers" / "patients.client.ledger"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b"10.0", b"99.0"), *lines[2:]]))
    assert path.read_bytes() != b"".join(lines)
    assert purse(owner).broken.startswith("record 2: ")


def test_a_ledger_under_another_data_sets_name_is_not_believed(owner: AgentDirectory) -> None:
    for end in ("ledger", "anchors"):
        file = owner.path / "ledgers" / f"patients.client.{end}"
        (owner.path / "ledgers" / f"staff.client.{end}").write_bytes(file.read_bytes())
    found = Purse(owner.path, "staff", "client", owner.identity.public_key)
    found.refresh()
    assert "opens the ledger of 'patients'" in found.broken

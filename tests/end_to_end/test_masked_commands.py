"""Masked runs from the command line: refused in one line, repeated bit by bit, and described as what they were."""

import json
from pathlib import Path

import pytest

from .conftest import Outcome, Tacit, refused, statuses

MASKED = ("secure_aggregation.enabled=true", "population.clients=5", "training.rounds=2")


def run(tacit: Tacit, out: str, *settings: str) -> Outcome:
    words = [word for setting in (*MASKED, *settings) for word in ("--set", setting)]
    return tacit("simulate", "tiny.toml", "--out", out, *words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("population.clients=2",), ("2 clients", "min_cohort is 5", "raise cohort or lower min_cohort")),
        (("population.clients=2", "secure_aggregation.min_cohort=2"), ("raise cohort",)),
        (("population.clients=4",), ("4 clients", "min_cohort is 5")),
        (("training.cohort=3",), ("3 clients", "min_cohort is 5")),
        (("secure_aggregation.dropout=0.5",), ("lower dropout to at most 0.2",)),
        (("population.clients=10", "secure_aggregation.dropout=0.5"), ("lower dropout to at most 0.3",)),
        (("population.clients=10", "secure_aggregation.colluding=0.4"), ("lower dropout to at most 0.1",)),
        (("population.clients=20", "secure_aggregation.dropout=0.5"), ("lower dropout to at most 0.35",)),
        (("population.clients=20", "training.cohort=4"), ("4 clients", "min_cohort is 5")),
        (("secure_aggregation.colluding=0.9",), ("raise min_cohort to at least 6",)),
    ],
    ids=lambda part: "+".join(part),
)
def test_a_cohort_that_cannot_be_masked_is_refused_before_anything_is_written(
    tacit: Tacit, home: Path, settings: tuple[str, ...], words: tuple[str, ...]
) -> None:
    before = {path.name for path in home.iterdir()}
    refused(run(tacit, "runs/refused", *settings), *words)
    # A database that was asked about models to start from may be there; it knows of no run.
    assert {path.name for path in home.iterdir() if not path.name.startswith("tacit.db")} == before
    assert statuses() == []


@pytest.mark.parametrize("clients", [5, 6, 10, 20])
def test_the_defaults_are_feasible_for_every_federation_of_five_or_more(clients: int) -> None:
    from tacit.models.sections import SecureAggregationSection
    from tacit.privacy.secagg.graph import allowed_dropouts, check_feasible, least_survivors

    settings = SecureAggregationSection()
    for cohort in range(clients, 201):
        dropout_ppm = int(settings.dropout * 1e6)
        survivors = least_survivors(cohort, settings.min_cohort, dropout_ppm)
        check_feasible("complete", cohort, survivors, int(settings.colluding * cohort), dropout_ppm)
        assert allowed_dropouts(cohort, dropout_ppm) >= 1


@pytest.fixture
def finished(tacit: Tacit) -> Path:
    outcome = run(tacit, "runs/masked")
    assert outcome.code == 0, outcome
    return Path("runs/masked")


def test_a_masked_run_says_what_it_was_and_gives_the_same_bits_again(tacit: Tacit, finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["secure_aggregation"] == {
        "enabled": True, "threshold": 3, "min_cohort": 5, "mode": "real", "min_survivors": 5, "colluders": 0,
        "dropout": 0.2, "graph": "complete", "adversary": "honest-but-curious coordinator",
    }  # fmt: skip
    sentence = json.loads((finished / "privacy.json").read_text())["sentence"]
    assert sentence == (
        "Nothing bounds what this model says about the data it was trained on, and the coordinator saw updates only as"
        " sums over at least 5 clients."
    )
    assert sentence in (finished / "model" / "README.md").read_text()
    page = " ".join((finished / "report.html").read_text().split())
    assert "Secure aggregation was on: the coordinator gets sums over at least 5 clients; the threshold was 3." in page
    assert "Nothing protects the released model." in page and "sees every single update" not in page
    assert not (finished / ".run-seed").exists()

    again = tacit("runs", "reproduce", "masked", "--format", "json")
    assert again.code == 0, again
    assert json.loads(again.out)["identical"] is True

    elided = run(tacit, "runs/elided", "secure_aggregation.mode=elided")
    assert elided.code == 0, elided
    other = json.loads(Path("runs/elided/summary.json").read_text())
    assert (other["secure_aggregation"]["mode"], other["secure_aggregation"]["adversary"]) == (
        "elided", "nobody: a simulation without masks"
    )  # fmt: skip
    assert other["metrics"] == summary["metrics"]
    weights = [Path("runs", name, "model/model.safetensors").read_bytes() for name in ("masked", "elided")]
    assert weights[0] == weights[1]
    assert "nothing hid a single update" in json.loads(Path("runs/elided/privacy.json").read_text())["sentence"]
    page = " ".join(Path("runs/elided/report.html").read_text().split())
    assert "<strong>Masks were left out</strong>" in page and "Secure aggregation was on" not in page

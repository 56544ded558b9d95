"""What a data owner types, and what comes back: words, JSON, exit codes, and nothing written that was not asked for."""

import json
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import dp_event

from tacit.__main__ import run
from tacit.client.agent import Agent
from tacit.client.consent import Consent
from tacit.client.directory import AgentDirectory
from tacit.client.lines import FileLines
from tacit.client.rehearsal import Held, steps
from tacit.client.training import Workbench
from tacit.models.data import open_source
from tacit.models.invitation import Invitation
from tacit.models.recipe import parse_recipe
from tacit.privacy.filters import renyi_filter
from tacit.privacy.records import Entry

RECIPE = """
name = "r"
[task]
kind = "tabular-classification"
[data]
source = "sklearn:wine"
[population]
clients = 8
[training]
rounds = 2
local_steps = 2
device = "cpu"
[privacy]
unit = "client"
epsilon = 8.0
"""
OPEN = """
[approved]
models = ["logistic"]
statistics = ["examples", "counts", "moments"]
[privacy]
accept_promised_noise = true
promised_epsilon_total = 20.0
"""


class Owner:
    """Types commands in a directory of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def types(self, *words: str, code: int = 0) -> str:
        """Run a command and return what it printed, on either stream."""
        assert run(["agent", *words]) == code, self._capsys.readouterr()
        printed = self._capsys.readouterr()
        if code in (1, 2):
            assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
        return printed.out + printed.err

    def reads(self, *words: str, code: int = 0) -> Any:
        """Run a command and return the JSON that it printed."""
        assert run(["agent", *words, "--format", "json"]) == code
        return json.loads(self._capsys.readouterr().out)


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Owner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TACIT_AGENT", "ward")
    Path("recipe.toml").write_text(RECIPE)
    Path("visits.csv").write_text("age,job,label\n" + "".join(f"{20 + at},n{at % 3},{at % 2}\n" for at in range(40)))
    made = Owner(capsys)
    made.types("init", "ward")
    return made


def contents(folder: str = "ward") -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def rewrite_policy(text: str) -> None:
    Path("ward/policy.toml").write_text(text)


def test_init_prints_the_key_and_a_second_one_changes_nothing(owner: Owner) -> None:
    made = owner.reads("init", "other", "--name", "ward-7")
    assert (made["name"], len(bytes.fromhex(made["key"]))) == ("ward-7", 32)
    before = contents("other")
    assert "other: is there already; a new directory" in owner.types("init", "other", code=2)
    assert contents("other") == before


def test_an_organisations_key_is_made_once_for_its_owner_alone(owner: Owner) -> None:
    first = owner.types("org-key").strip()
    assert len(bytes.fromhex(first)) == 32
    assert owner.reads("org-key")["organisation_key"] == first
    assert stat.S_IMODE(Path("organisation.key").stat().st_mode) == 0o600
    assert owner.types("org-key", "another.key").strip() != first
    Path("organisation.key").chmod(0o644)
    assert "can be read by others; chmod 600" in owner.types("org-key", code=2)


def test_data_are_added_listed_inspected_and_removed(owner: Owner) -> None:
    assert "rows" in owner.types("data", "add", "visits", "csv:visits.csv", "--row", "visit")
    listed = owner.reads("data", "list")
    assert listed["visits"]["source"] == f"csv:{Path('visits.csv').resolve()}" and listed["visits"]["row"] == "visit"
    found = owner.reads("data", "inspect", "visits")["findings"]
    assert (found["rows"], found["columns"], found["classes"]) == (40, 2, {"0": 20, "1": 20})
    assert "the nearest is 'visits'" in owner.types("data", "inspect", "vist", code=2)
    assert "use 'visits'" in owner.types("data", "add", "twice", "csv:./visits.csv", code=2)
    owner.types("data", "remove", "visits")
    assert owner.reads("data", "list") == {}


def test_inspecting_says_what_is_missing_and_what_was_dropped(owner: Owner) -> None:
    Path("gaps.csv").write_text("age,label\n1,0\n,1\n3,\n4,1\n")
    owner.types("data", "add", "gaps", "csv:gaps.csv")
    found = owner.reads("data", "inspect", "gaps")["findings"]
    assert (found["rows"], found["missing"], found["dropped"]) == (3, {"age": 1}, {"without a label": 1})


@pytest.mark.parametrize("source", ["csv:gone.csv", "nowhere:x", "csv:${NOT_SET}/x.csv", "csv:visits.csv?sepp=;"])
def test_data_that_cannot_be_read_are_not_registered(source: str, owner: Owner) -> None:
    before = contents()
    owner.types("data", "add", "visits", source, code=2)
    assert contents() == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("visits", "csv:visits.csv", "--row", "x" * 65), "'row' is not usable; string should have at most 64"),
        (("visits", "csv:visits\udcff.csv"), "'source' is not usable"),
        (("visits", "csv:visits.csv", "--label", "lable"), "label"),
        (("visits", "csv:visits.csv", "--task", "guessing"), "guessing"),
        (("vis\x1bits", "csv:visits.csv"), "is no name of a data set"),
    ],
)
def test_an_entry_that_cannot_be_kept_is_refused_in_one_line(words: tuple[str, ...], why: str, owner: Owner) -> None:
    before = contents()
    said = owner.types("data", "add", *words, code=2)
    assert why in said and "\x1b" not in said and contents() == before


def test_data_that_vanished_are_missed_in_one_line(owner: Owner) -> None:
    owner.types("data", "add", "visits", "csv:visits.csv")
    Path("visits.csv").unlink()
    assert "there is no such file" in owner.types("data", "inspect", "visits", code=2)
    assert "there is no such file" in owner.types("policy", "check", "recipe.toml", code=2)


@pytest.mark.parametrize(
    "words",
    [
        ("data", "list"), ("data", "inspect", "x"), ("policy", "show"), ("policy", "explain"), ("status",), ("ledger",),
        ("audit",), ("audit", "verify"), ("audit", "export", "x"), ("pause",), ("resume",),
        ("policy", "check", "recipe.toml"), ("outbox", "--dry-run", "recipe.toml"),
    ],
)  # fmt: skip
def test_a_directory_that_is_none_is_answered_with_how_to_make_one(words: tuple[str, ...], owner: Owner) -> None:
    assert "there is no such directory; tacit agent init gone" in owner.types(*words, "--dir", "gone", code=2)


# The policy


def test_a_recipe_is_refused_until_its_owner_approves_it(owner: Owner) -> None:
    owner.types("data", "add", "wine", "sklearn:wine")
    before = contents()
    refused = owner.reads("policy", "check", "recipe.toml", code=3)
    assert [step["code"] for step in refused["steps"]] == ["recipe-not-approved"] * 2 and not refused["accepted"]
    assert contents() == before
    rewrite_policy(OPEN.replace('models = ["logistic"]', f'recipes = ["{refused["recipe_sha256"]}"]'))
    accepted = owner.reads("policy", "check", "recipe.toml")
    assert accepted["accepted"] and accepted["parameters"] == 13 * 3 + 3 and accepted["cohort"] == 8
    changed = owner.reads("policy", "check", "recipe.toml", "--set", "training.rounds=3", code=3)
    assert changed["recipe_sha256"] != refused["recipe_sha256"]


def test_an_owner_hears_every_reason_at_once_and_first_the_one_that_a_coordinator_would_hear(owner: Owner) -> None:
    owner.types("data", "add", "wine", "sklearn:wine")
    rewrite_policy("[secure_aggregation]\nmin_cohort = 9\n[limits]\nmax_rounds = 1\n")
    before = contents()
    preparation, training = owner.reads("policy", "check", "recipe.toml", code=3)["steps"]
    assert [reason.partition(":")[0] for reason in preparation["reasons"]] == [
        "cohort-floor", "recipe-not-approved", *["statistic-not-allowed"] * 3, "rounds-limit",
    ]  # fmt: skip
    assert [reason.partition(":")[0] for reason in training["reasons"]] == [
        "cohort-floor", "recipe-not-approved", "rounds-limit", "promised-noise", "no-budget",
    ]  # fmt: skip
    for step in (preparation, training):
        assert step["reason"] == step["reasons"][0] and step["code"] == "cohort-floor"
    shown = owner.types("policy", "check", "recipe.toml", code=3)
    assert all(reason in shown for step in (preparation, training) for reason in step["reasons"])
    assert contents() == before
    rewrite_policy(OPEN)
    assert [step["reasons"] for step in owner.reads("policy", "check", "recipe.toml")["steps"]] == [[], []]


def test_a_cohort_that_is_too_small_for_the_policy_is_refused(owner: Owner) -> None:
    owner.types("data", "add", "wine", "sklearn:wine")
    rewrite_policy(OPEN + "[secure_aggregation]\nmin_cohort = 7\n")
    refused = owner.reads("policy", "check", "recipe.toml", "--cohort", "6", code=3)
    assert {step["code"] for step in refused["steps"]} == {"cohort-floor"}


def test_what_the_ledger_has_spent_counts(owner: Owner) -> None:
    owner.types("data", "add", "wine", "sklearn:wine")
    rewrite_policy(OPEN)
    assert owner.reads("policy", "check", "recipe.toml")["accepted"]
    directory = AgentDirectory.open(Path("ward"))
    with directory.journal() as journal:
        ledger = journal.ledger("wine", "client", directory.policy.budgets("client"))
        number = 0
        while ledger.allows([spending(number)]):
            ledger.reserve([spending(number)])
            number += 1
    refused = owner.reads("policy", "check", "recipe.toml", code=3)
    assert [step["code"] for step in refused["steps"]] == [None, "epsilon-total"]
    cost = owner.reads("outbox", "--dry-run", "recipe.toml")["cost"]
    assert cost["would_be_paid"] is False and cost["epsilon_spent_after"] > cost["granted"] > 0


def spending(number: int) -> Entry:
    return Entry("other", number, 0, bytes(32), "noise", dp_event.GaussianDpEvent(1.0), 1e-5, "promised")


def test_which_of_several_data_sets_has_to_be_said(owner: Owner) -> None:
    assert "no data set is registered" in owner.types("policy", "check", "recipe.toml", code=2)
    owner.types("data", "add", "a", "sklearn:wine")
    owner.types("data", "add", "b", "csv:visits.csv")
    assert "give --data, one of a, b" in owner.types("policy", "check", "recipe.toml", code=2)
    assert "known are 'a', 'b'" in owner.types("policy", "check", "recipe.toml", "--data", "c", code=2)
    owner.types("policy", "check", "recipe.toml", "--data", "a", code=3)


@pytest.mark.parametrize(
    ("text", "why"), [("x = 1", "the key 'name' is missing"), ("[", "is not valid TOML"), (None, "cannot be read")]
)
def test_a_recipe_that_is_none_is_refused(text: str | None, why: str, owner: Owner) -> None:
    if text is not None:
        Path("broken.toml").write_text(text)
    assert why in owner.types("policy", "check", "broken.toml", code=2)


def test_the_policy_is_shown_as_it_is_written_and_explained_in_sentences(owner: Owner) -> None:
    assert owner.types("policy", "show") == Path("ward/policy.toml").read_text()
    assert owner.reads("policy", "show")["approved"]["recipes"] == []
    assert "It runs nothing: no recipe, model or code is approved.\n" in owner.types("policy", "explain")


def test_a_broken_policy_stops_every_command_with_its_place(owner: Owner) -> None:
    rewrite_policy("[privacy]\nepsilon_totl = 8.0\n")
    for words in (("status",), ("policy", "check", "recipe.toml"), ("pause",)):
        assert "the nearest is 'epsilon_total'" in owner.types(*words, code=2)


def test_a_pin_keeps_the_comments_and_the_mode_of_the_policy(owner: Owner) -> None:
    key = owner.types("org-key").strip()
    comments = [line for line in Path("ward/policy.toml").read_text().splitlines() if line.startswith("#")]
    assert owner.types("policy", "pin", key) == "pinned; 1 in all\n"
    assert owner.types("policy", "pin", key) == "it is pinned already\n"
    text = Path("ward/policy.toml").read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == comments
    assert stat.S_IMODE(Path("ward/policy.toml").stat().st_mode) == 0o600
    assert "Members of one pinned organisation count" in owner.types("policy", "explain")


@pytest.mark.parametrize("key", ["", "ab", "AB" * 32, "zz" * 32, "organisation.key"])
def test_a_pin_that_is_no_key_is_refused(key: str, owner: Owner) -> None:
    before = contents()
    assert "KEY: is no public key" in owner.types("policy", "pin", key, code=2)
    assert contents() == before


# What would leave


def test_a_dry_run_shows_every_field_and_its_cost_and_writes_nothing(owner: Owner) -> None:
    owner.types("data", "add", "wine", "sklearn:wine")
    rewrite_policy(OPEN)
    before = contents()
    shown = owner.reads("outbox", "--dry-run", "recipe.toml")
    assert contents() == before
    assert [step["refused_because"] for step in shown["steps"]] == [None, None]
    arriving = {(field["step"], field["field"]): field for field in shown["arriving"]}
    assert ("preparation", "plan") in arriving and arriving["training", "offer"]["bytes"] > 0
    assert arriving["training", "vector"]["shape"] == [42] and arriving["training", "vector"]["bytes"] == 168
    update = next(field for field in shown["fields"] if field["field"] == "update")
    assert update["masked"] and update["shape"] == [42] and update["noise_deviation"] > 0
    assert update["norm_clipped"] <= 1.0 + 1e-9 and update["norm_clipped"] <= update["norm"] + 1e-9
    cost = shown["cost"]
    assert cost["column"] == "promised" and cost["would_be_paid"] and cost["epsilon_spent_before"] == 0
    assert 0 < cost["epsilon_of_one_round"] < 8.0 and 0 < cost["epsilon_spent_after"] <= cost["granted"]
    assert "would accept it" in owner.types("outbox", "--dry-run", "recipe.toml")


def test_a_dry_run_shows_what_a_refused_recipe_would_have_taken(owner: Owner) -> None:
    owner.types("data", "add", "wine", "sklearn:wine", "--row", "bottle")
    overrides = ("--set", "privacy.unit=example", "--set", "privacy.sample_rate=0.1")
    words = owner.types("outbox", "--dry-run", "recipe.toml", *overrides)
    assert "the policy would refuse it: recipe-not-approved" in words
    assert "unit example, one bottle" in words and "nothing is granted for it" in words


def test_a_run_that_promises_nothing_says_so(owner: Owner) -> None:
    owner.types("data", "add", "wine", "sklearn:wine")
    words = owner.types("outbox", "--dry-run", "recipe.toml", "--set", "privacy.unit=none")
    assert "none is counted, because the recipe promises nothing" in words and "weight" in words


def test_the_outbox_has_to_be_told_that_nothing_leaves(owner: Owner) -> None:
    assert "give --dry-run" in owner.types("outbox", "recipe.toml", code=2)


def test_code_that_is_not_approved_is_not_run_for_a_dry_run(owner: Owner) -> None:
    owner.types("data", "add", "wine", "sklearn:wine")
    words = owner.types("outbox", "--dry-run", "recipe.toml", "--set", "model.factory=os:abort", code=2)
    assert "runs code that the policy does not approve" in words


# Ledger and account


def spend() -> None:
    directory = AgentDirectory.open(Path("ward"))
    with directory.journal() as journal:
        ledger = journal.ledger("wine", "client", {"promised": renyi_filter(20.0, 1e-5)})
        ledger.countersigned(ledger.reserve([spending(1)]))
        ledger.spend(spending(1).key)
        ledger.reserve([spending(2)])


def test_a_ledger_is_shown_by_column_and_run_with_what_is_left(owner: Owner) -> None:
    assert "no data set has spent anything" in owner.types("ledger")
    spend()
    (shown,) = owner.reads("ledger")
    budget = renyi_filter(20.0, 1e-5)
    twice = budget.spent([dp_event.GaussianDpEvent(1.0)] * 2)
    column = shown["columns"]["promised"]
    assert column["epsilon_spent"] == pytest.approx(budget.epsilon_of(twice))
    assert column["share_left"] == pytest.approx(1 - twice.divergence / budget.limit)
    assert column["epsilon_by_run"] == {"other": pytest.approx(budget.epsilon_of(twice))}
    # Opened, reserved (countersigned so far), spent, reserved.
    assert (shown["records"], shown["not_countersigned"], shown["open_reservations"]) == (4, 2, 1)
    assert "wine" in owner.types("ledger", "wine")
    assert "the nearest is 'wine'" in owner.types("ledger", "wnie", code=2)


@pytest.mark.parametrize("damage", ["altered", "cut", "another"])
def test_a_ledger_that_is_not_what_was_written_fails(damage: str, owner: Owner) -> None:
    spend()
    path = Path("ward/ledgers/wine.client.ledger")
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "altered":
        lines[1] = lines[1].replace(b'"round":1', b'"round":7')
    if damage == "cut":
        del lines[1:]
    if damage == "another":
        shutil.copy("ward/ledgers/wine.client.anchors", "ward/ledgers/beer.client.anchors")
        path = Path("ward/ledgers/beer.client.ledger")
    path.write_bytes(b"".join(lines))
    assert "ledger record" in owner.types("ledger", code=1).splitlines()[-1]


def test_the_account_is_shown_verified_and_exported(owner: Owner) -> None:
    assert "nothing was asked yet" in owner.types("audit")
    owner.types("data", "add", "wine", "sklearn:wine")
    owner.types("pause")
    owner.types("resume")
    assert [entry["kind"] for entry in owner.reads("audit", "--limit", "2")] == ["paused", "resumed"]
    kept = owner.reads("audit", "verify")
    assert kept["entries"] == 3
    owner.types("pause")
    assert owner.reads("audit", "verify", "--head", kept["head"])["entries"] == 4
    owner.types("audit", "export", "account.jsonl")
    assert Path("account.jsonl").read_bytes() == Path("ward/audit.jsonl").read_bytes()
    assert stat.S_IMODE(Path("account.jsonl").stat().st_mode) == 0o600
    assert "is there already" in owner.types("audit", "export", "account.jsonl", code=2)


def test_an_account_that_was_cut_or_altered_fails(owner: Owner) -> None:
    owner.types("pause")
    owner.types("resume")
    head = owner.reads("audit", "verify")["head"]
    path = Path("ward/audit.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    assert owner.reads("audit", "verify")["entries"] == 1  # the chain alone does not show that its end is gone
    assert "ends before the head" in owner.types("audit", "verify", "--head", head, code=1)
    path.write_bytes(lines[1])
    for words in (("audit",), ("audit", "verify"), ("audit", "export", "x"), ("status",)):
        assert "audit entry 1: does not follow the one before it" in owner.types(*words, code=1)
    assert not Path("x").exists()


@pytest.mark.parametrize("head", ["", "1", "x:00", "0:" + "00" * 32, "1:00"])
def test_a_head_that_is_none_is_refused(head: str, owner: Owner) -> None:
    assert "--head: is no head" in owner.types("audit", "verify", "--head", head or ":", code=2)


def test_the_directory_of_an_audit_may_be_named_at_either_place(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TACIT_AGENT")
    owner.types("pause", "--dir", "ward")
    assert owner.reads("audit", "--dir", "ward", "verify") == owner.reads("audit", "verify", "--dir", "ward")


def test_a_pause_can_be_seen_and_ended(owner: Owner) -> None:
    assert owner.reads("status")["paused"] is False
    assert owner.types("pause") == "ward is paused\n"
    assert owner.types("pause") == "ward was paused already\n"
    assert owner.reads("status")["paused"] is True
    assert owner.types("resume") == "ward is not paused\n"
    assert [entry["kind"] for entry in owner.reads("audit")] == ["paused", "resumed"]


def test_a_running_agent_is_paused_too_and_its_register_is_left_alone(owner: Owner) -> None:
    # The locks are those of the files, so another opening in the same process stands for the agent's.
    open_files = [FileLines(Path("ward") / name) for name in ("rounds.jsonl", "audit.jsonl")]
    try:
        assert owner.reads("status")["running"] is True
        assert owner.types("pause") == "ward is paused\n"
        assert "stop the agent that is running" in owner.types("data", "add", "wine", "sklearn:wine", code=2)
        assert owner.reads("data", "list") == {}
    finally:
        for lines in open_files:
            lines.close()
    assert owner.reads("status")["running"] is False


def test_status_counts_what_the_account_holds(owner: Owner) -> None:
    directory = AgentDirectory.open(Path("ward"))
    with directory.journal() as journal:
        for kind in ("offer-accepted", "message-left", "message-left", "offer-refused"):
            journal.audit.append(kind)
    shown = owner.reads("status")
    assert (shown["offers_accepted"], shown["offers_refused"], shown["messages_left"]) == (1, 1, 2)
    assert shown["key"] == directory.identity.public_key.hex()


def test_what_the_masked_round_itself_refuses_is_counted_as_refused(owner: Owner) -> None:
    with AgentDirectory.open(Path("ward")).journal() as journal:
        for kind, code in (("round-failed", "cohort-floor"), ("offer-refused", "paused")):
            journal.audit.append(kind, code=code)
    assert owner.reads("status")["offers_refused"] == 2


def test_an_owner_hears_that_the_agent_that_runs_has_not_read_the_policy_as_it_is_now(owner: Owner) -> None:
    owner.types("data", "add", "wine", "sklearn:wine")
    directory = AgentDirectory.open(Path("ward"))
    assert owner.reads("status")["policy_in_force"] is None
    with directory.journal() as journal:
        journal.audit.append("policy-read", sha256=directory.policy_sha256)
        assert owner.reads("status")["policy_in_force"] is True
        rewrite_policy(OPEN)
        assert owner.reads("status")["policy_in_force"] is False
        assert owner.reads("policy", "check", "recipe.toml")["in_force"] is False
        for words in (("status",), ("policy", "check", "recipe.toml")):
            assert "start it again" in owner.types(*words)
        journal.audit.append("policy-read", sha256=directory.policy_sha256)
        assert owner.reads("policy", "check", "recipe.toml")["in_force"] is True
        assert "start it again" not in owner.types("policy", "check", "recipe.toml")
    rewrite_policy(OPEN + "\n")
    assert owner.reads("policy", "check", "recipe.toml")["in_force"] is None


LOCAL = ("privacy.noise=local", "secure_aggregation.enabled=false")
WITHOUT_MASKS = OPEN.replace("accept_promised_noise = true\npromised_", "") + "[secure_aggregation]\nrequired = false\n"


def test_what_a_dry_run_foretold_is_what_an_agent_of_the_directory_does(owner: Owner) -> None:
    owner.types("data", "add", "wine", "sklearn:wine")
    rewrite_policy(WITHOUT_MASKS)
    overrides = [word for setting in LOCAL for word in ("--set", setting)]
    foretold = owner.reads("outbox", "--dry-run", "recipe.toml", *overrides)
    (update,) = (field for field in foretold["fields"] if field["step"] == "training")
    assert foretold["cost"]["column"] == "assured" and not update["masked"]

    directory, bench = AgentDirectory.open(Path("ward")), Workbench()
    source = open_source("sklearn:wine", task="tabular-classification", environ={})
    step = steps(parse_recipe(RECIPE, LOCAL), source, 8, bench, run_code=False)[-1]
    with directory.journal() as journal:
        agent = Agent("ward", Held(source), bench)
        paused = directory.pause.noted_in(journal.audit)
        agent.governed_by(
            Consent(journal, "wine", bench, directory.policy, directory.budgets, time.time, paused=paused)
        )
        owner.types("pause")
        assert agent.handle(step.instruction).reason.startswith("paused: ")
        owner.types("resume")
        reply = agent.handle(step.instruction)
    assert reply.outcome == "ok" and [*reply.arrays] == [update["field"]]
    assert (list(reply.arrays["update"].shape), reply.arrays["update"].nbytes) == (update["shape"], update["bytes"])
    (ledger,) = owner.reads("ledger")
    assert ledger["columns"]["assured"]["epsilon_spent"] == pytest.approx(foretold["cost"]["epsilon_spent_after"])
    kinds = [entry["kind"] for entry in owner.reads("audit")]
    assert kinds[:3] == ["data-added", "paused", "offer-refused"]
    assert kinds[3:6] == ["resumed", "offer-accepted", "ledger-reserved"]
    again = owner.reads("outbox", "--dry-run", "recipe.toml", *overrides)["cost"]
    assert again["would_be_paid"]
    assert again["epsilon_spent_before"] == pytest.approx(foretold["cost"]["epsilon_spent_after"])


def test_no_command_prints_the_secret_key(owner: Owner) -> None:
    secret = Path("ward/agent.key").read_bytes().hex()
    for words in (("status",), ("policy", "show"), ("audit",), ("data", "list")):
        assert secret not in owner.types(*words)


def test_no_invitation_is_used_up_beside_an_agent_that_runs(owner: Owner) -> None:
    """It has the account open, so that nobody could write down that it is a member."""
    token = Invitation("https://127.0.0.1:9", bytes(32), "north", "", int(time.time()) + 60, bytes(32)).text()
    with AgentDirectory.open(Path("ward")).journal():
        assert "is in use; stop the agent that is running" in owner.types("enrol", "--token", token, code=2)
    assert "Connection refused" in owner.types("enrol", "--token", token, code=1)
    assert not Path("ward/enrolment").exists()

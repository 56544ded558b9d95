"""How a federation stands is read from what is kept, and shown to people and to programs."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from tacit.models.noise import noise_plan
from tacit.models.recipe import Recipe, recipe_from_dict
from tacit.privacy.identity import Certificate, Identity
from tacit.server.budget import open_budget
from tacit.server.cli.coordinator import coordinator
from tacit.server.cli.status import shown, watch
from tacit.server.coordinator_lock import held
from tacit.server.run_queue import QUEUE, ask_to_stop
from tacit.server.status import Ledgers, Missing, Phase, Status, read_status
from tacit.server.store import (
    NewClient,
    NewInvitation,
    NewRun,
    Participation,
    RoundRecord,
    Store,
    StoreUnavailable,
    open_store,
)
from tacit.server.store.records import PhaseRecord
from tacit.server.up_file import UP_FILE, Client, Up

NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)
RECIPE: Recipe = recipe_from_dict(
    {
        "name": "ward",
        "task": {"kind": "tabular-classification"},
        "data": {"source": "sklearn:wine"},
        "population": {"clients": 5},
        "training": {"rounds": 20},
        "privacy": {"unit": "client", "noise_multiplier": 1.5},
        "secure_aggregation": {"min_cohort": 4},
    }
)
COMMITTED = RoundRecord(
    number=6,
    attempt=0,
    outcome="committed",
    seconds=2.0,
    metrics={"accuracy": 0.75},
    participation=tuple(Participation(f"clinic-{at}", "reported") for at in range(4)),
)
ABORTED = RoundRecord(
    number=7,
    attempt=0,
    outcome="aborted",
    seconds=61.0,
    participation=(
        Participation("clinic-0", "reported"),
        Participation("clinic-1", "late"),
        Participation("clinic-2", "refused", "noise-floor: [red]less[/red] than 9\x1b[2J"),
        Participation("clinic-3", "refused", "paused"),
    ),
    extra={"reason": "1 of 4 clients reported"},
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "tacit.db"), now=lambda: NOW - timedelta(minutes=5)) as opened:
        yield opened


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Say that a coordinator is up, whose members are there or not."""
    with ExitStack() as stack:
        stack.enter_context(held(tmp_path))

        def says(*, insecure: bool = False, **clients: bool) -> None:
            found = Up(
                pid=os.getpid(),
                started_at=NOW - timedelta(hours=3, minutes=12),
                url="https://127.0.0.1:9092",
                version="0.1.0",
                insecure=insecure,
                metrics="",
                clients={
                    name: Client(online=online, seen=NOW - timedelta(seconds=20)) for name, online in clients.items()
                },
            )
            (tmp_path / UP_FILE).write_text(found.model_dump_json())

        yield says


def add_run(store: Store, name: str = "1-ward", recipe: Recipe = RECIPE) -> str:
    return store.create_run(
        NewRun(name, recipe.name, recipe.task.kind, recipe.to_toml(), recipe.digest, f"runs/{name}")
    ).run


def enrol(store: Store, name: str) -> None:
    member, authority = Identity(name.encode().ljust(32)), Identity(bytes(32))
    draft = Certificate(
        client=name,
        organisation=name,
        subject_key=member.public_key,
        organisation_key=member.public_key,
        authority_key=authority.public_key,
        serial=1 << 32,
        expires_at=int((NOW + timedelta(days=1)).timestamp()),
    )
    certificate = draft.endorsed(member).certified(authority)
    number = member.public_key[:16].hex()
    store.invite(NewInvitation(number, name, "", None, member.public_key, NOW + timedelta(days=1)))
    store.enrol_client(number, NewClient(member.public_key, name, name, member.public_key, certificate.encode()))


def read(tmp_path: Path, store: Store) -> Status:
    return read_status(tmp_path, "wards", "https://hub.example:9092", store, NOW)


def text(found: Status) -> str:
    console = Console(width=300, file=StringIO())
    console.print(shown(found, NOW))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_new_federation_has_nothing_to_tell(tmp_path: Path, store: Store) -> None:
    found = read(tmp_path, store)
    assert found == Status("wards", "https://hub.example:9092", None, (), None, (), (), ())
    assert "not up" in text(found) and "nobody is enrolled" in text(found)


def test_members_are_told_apart_by_whether_they_are_there(
    tmp_path: Path, store: Store, up: Callable[..., None]
) -> None:
    for name in ("south", "north", "west"):
        enrol(store, name)
    up(north=True, south=False)
    found = read(tmp_path, store)
    assert [(one.name, one.online) for one in found.members] == [("north", True), ("south", False), ("west", False)]
    assert found.online == 1
    assert "3 enrolled, 1 online; away: south (20 s), west" in text(found)
    assert "up for 3 h 12 min, since 2026-03-14 08:48:00Z" in text(found)


def test_nobody_is_said_to_be_away_while_no_coordinator_could_know(tmp_path: Path, store: Store) -> None:
    enrol(store, "north")
    found = read(tmp_path, store)
    assert [(one.name, one.online, one.seen) for one in found.members] == [("north", None, None)]
    assert "away" not in text(found)


def test_a_run_that_is_going_shows_its_round_its_figures_and_why_the_last_attempt_failed(
    tmp_path: Path, store: Store, up: Callable[..., None]
) -> None:
    run = add_run(store)
    store.commit_round(run, COMMITTED)
    store.commit_round(run, ABORTED)
    up()
    found = read(tmp_path, store)
    going = found.going
    assert going is not None and (going.run, going.recipe, going.rounds) == (run, "ward", 20)
    assert (going.rounds_committed, going.round, going.attempt, going.metrics) == (1, 7, 1, {"accuracy": 0.75})
    assert going.last is not None and going.last.counts == {"reported": 1, "late": 1, "refused": 2}
    assert [(one.client, one.outcome) for one in going.last.missing] == [
        ("clinic-1", "late"), ("clinic-2", "refused"), ("clinic-3", "refused"),
    ]  # fmt: skip
    page = text(found)
    assert "7 of 20, attempt 2" in page and "accuracy 0.75" in page
    assert "round 7: 1 reported, 1 late, 2 refused in 61.0 s, 5 min ago; failed: 1 of 4 clients reported" in page
    # A client's words are neither markup nor control sequences.
    assert "clinic-2 refused: noise-floor: [red]less[/red] than 9" in page and "\x1b" not in page


def test_the_exchange_that_is_under_way_is_shown_until_the_attempt_is_over(tmp_path: Path, store: Store) -> None:
    run = add_run(store)
    store.commit_round(run, COMMITTED)
    gone = [{"client": "clinic-3", "outcome": "late", "reason": "no answer in time", "exchange": "advertise"}]
    names = [f"clinic-{at}" for at in range(4)]
    progress = {"cohort": names, "asked": names[:3], "gone": gone}
    store.announce_phase(run, PhaseRecord(7, 2, "mask", progress))
    found = read(tmp_path, store)
    assert found.going is not None and (found.going.round, found.going.attempt) == (7, 2)
    assert found.going.phase == Phase(
        "mask", 3, 4, NOW - timedelta(minutes=5), (Missing("clinic-3", "late", "no answer in time"),)
    )
    page = text(found)
    assert "7 of 20, attempt 3" in page and "mask for 5 min, asks 3 of 4" in page
    assert "clinic-3 late: no answer in time" in page
    store.commit_round(run, ABORTED, memory={})
    found = read(tmp_path, store)
    assert found.going is not None and (found.going.round, found.going.attempt, found.going.phase) == (7, 1, None)


def test_epsilon_is_what_the_ledger_says(tmp_path: Path, store: Store, up: Callable[..., None]) -> None:
    run = add_run(store)
    up()
    assert read(tmp_path, store).going.privacy is None  # type: ignore[union-attr]
    open_budget(store, RECIPE, run, 100, 5, Identity(bytes(32)))
    found = read(tmp_path, store)
    assert found.going is not None and found.going.privacy is not None
    spending = found.going.privacy
    facts = open_budget(store, RECIPE, run, 100, 5, Identity(bytes(32))).facts()
    assert (spending.ledger, spending.epsilon_granted, spending.delta) == (
        facts["population"], facts["granted_epsilon"], facts["delta"],
    )  # fmt: skip
    assert spending.epsilon_committed == facts["epsilon_committed"] == 0
    assert f"epsilon      0.000 committed of {facts['granted_epsilon']:.3f}" in text(found)


def test_a_ledger_is_checked_again_only_when_it_has_a_new_record(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = add_run(store)
    budget = open_budget(store, RECIPE, run, 100, 5, Identity(bytes(32)))
    read = []
    lines = store.ledger_lines
    monkeypatch.setattr(store, "ledger_lines", lambda *ledger: read.append(ledger) or lines(*ledger))
    ledgers = Ledgers(store)
    before = ledgers.spending(run, RECIPE)
    assert before is not None and ledgers.spending(run, RECIPE) == before and len(read) == 1
    budget.reserve(noise_plan(RECIPE, 100, 5, 5), 1, 0, bytes(32))
    after = ledgers.spending(run, RECIPE)
    assert after is not None and len(read) == 2
    assert after.epsilon_committed == budget.facts()["epsilon_committed"] > before.epsilon_committed


def test_a_run_without_a_promise_has_no_epsilon(tmp_path: Path, store: Store) -> None:
    plain = recipe_from_dict({**RECIPE.to_dict(), "privacy": {"unit": "none"}})
    add_run(store, recipe=plain)
    found = read(tmp_path, store)
    assert found.going is not None and found.going.privacy is None
    assert "epsilon" not in text(found)


def test_a_run_that_nobody_works_on_was_broken_off(tmp_path: Path, store: Store) -> None:
    add_run(store)
    assert "was broken off, and goes on when the coordinator is up" in text(read(tmp_path, store))


def test_a_run_of_a_recipe_that_this_version_cannot_read_is_shown_all_the_same(tmp_path: Path, store: Store) -> None:
    store.create_run(NewRun("1-ward", "ward", "x", "future = true\n", "0" * 64, "runs/1-ward"))
    found = read(tmp_path, store)
    assert found.going is not None and found.going.rounds is None
    assert "preparation" in text(found)


def test_the_queue_is_shown_without_the_run_that_is_going(tmp_path: Path, store: Store) -> None:
    (tmp_path / QUEUE).mkdir()
    for name in ("1-ward", "2-ward", "3-digits"):
        (tmp_path / QUEUE / f"{name}.toml").write_text(f'name = "{name[2:]}"\n')
    (tmp_path / QUEUE / "0-wrong.failed").write_text("# was not trained: nobody came\n")
    add_run(store)
    ask_to_stop(tmp_path, "1-ward")
    found = read(tmp_path, store)
    assert [one.run for one in found.waiting] == ["2-ward", "3-digits"]
    assert [one.run for one in found.put_aside] == ["0-wrong"]
    assert found.going is not None and found.going.stopping
    assert "nobody came" in text(found)
    assert "ends after this attempt, as was asked" in text(found)


def test_the_last_runs_are_shown_with_what_came_of_them(tmp_path: Path, store: Store) -> None:
    for name, status in (("1-ward", "finished"), ("2-ward", "stopped")):
        add_run(store, name)
        summary = {"model": {"name": "ward", "version": 3}, "metrics": {"accuracy": 0.5}, "stopped": "by hand"}
        store.finish_run(name, summary, status=status)  # type: ignore[arg-type]
    add_run(store, "3-ward")
    store.set_run_status("3-ward", "failed", "3 of 4 clients were there after 600 s")
    for at in range(4, 20):
        store.set_run_status(add_run(store, f"0-{at:02}"), "failed")
    found = read(tmp_path, store)
    assert [(one.run, one.status, one.model) for one in found.recent[:3]] == [
        ("3-ward", "failed", ""), ("2-ward", "stopped", "ward@3"), ("1-ward", "finished", "ward@3"),
    ]  # fmt: skip
    assert len(found.recent) == 8
    assert "3 of 4 clients were there after 600 s" in text(found) and "accuracy 0.5; by hand" in text(found)


def test_a_run_that_waits_for_members_says_how_many_are_there(
    tmp_path: Path, store: Store, up: Callable[..., None]
) -> None:
    (tmp_path / QUEUE).mkdir()
    for name in ("1-ward", "2-ward"):
        (tmp_path / QUEUE / f"{name}.toml").write_text(RECIPE.to_toml())
    for name in ("clinic-0", "clinic-1"):
        enrol(store, name)
    assert "members are there" not in text(read(tmp_path, store))  # nobody is up who could count them
    up(**{"clinic-0": True, "clinic-1": False})
    assert text(read(tmp_path, store)).count("1 of 5 members are there") == 1
    add_run(store, "1-ward")
    assert "members are there" not in text(read(tmp_path, store))  # the second waits for the first


def test_a_coordinator_without_tls_is_shown_as_that(tmp_path: Path, store: Store, up: Callable[..., None]) -> None:
    up(insecure=True)
    assert "INSECURE" in text(read(tmp_path, store))


# The commands


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command in a directory with a coordinator, called hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TACIT_COORDINATOR", "hub")
    assert CliRunner().invoke(coordinator, ["init", "hub"]).exit_code == 0
    (tmp_path / "hub" / QUEUE).mkdir()
    for name in ("1-ward", "2-ward"):
        (tmp_path / "hub" / QUEUE / f"{name}.toml").write_text('name = "ward"\n')
    return lambda *arguments: CliRunner().invoke(coordinator, arguments)


def test_status_is_lines_for_people_and_json_for_programs(invoke: Callable[..., Result]) -> None:
    lines = invoke("status").output.splitlines()
    assert lines[0].split() == ["federation", "federation"] and lines[1].split() == ["coordinator", "not", "up"]
    assert all(line == line.rstrip() and "\x1b" not in line for line in lines)
    found = json.loads(invoke("status", "--format", "json").output)
    assert found["up"] is None and found["run"] is None and found["clients"] == {"enrolled": 0, "online": None}
    assert [one["run"] for one in found["waiting"]] == ["1-ward", "2-ward"]
    assert "--watch is for people" in str(invoke("status", "--watch", "--format", "json").output)


def test_watching_goes_on_while_the_database_is_away(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([read(tmp_path, store), StoreUnavailable("the database is locked"), read(tmp_path, store)])

    def again() -> Status:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    naps = iter([None, None, KeyboardInterrupt()])

    def nap(seconds: float) -> None:
        if isinstance(told := next(naps), BaseException):
            raise told

    monkeypatch.setattr("tacit.server.cli.status.time.sleep", nap)
    page = StringIO()
    with pytest.raises(KeyboardInterrupt):
        watch(Console(file=page, width=120, force_terminal=True), again)
    assert page.getvalue().count("the database is locked") == 1 and page.getvalue().count("not up") == 3


def test_a_run_that_waits_is_taken_out_of_the_queue(invoke: Callable[..., Result], tmp_path: Path) -> None:
    assert invoke("stop", "1-ward").output == "1-ward does not wait any more\n"
    assert [path.name for path in (tmp_path / "hub" / QUEUE).iterdir()] == ["2-ward.toml"]


def test_a_run_that_is_going_is_asked_to_end(invoke: Callable[..., Result], tmp_path: Path) -> None:
    with open_store(str(tmp_path / "hub/tacit.db")) as store:
        add_run(store, "1-ward")
    assert "ends after the attempt that is going" in invoke("stop", "1-ward").output
    assert {path.name for path in (tmp_path / "hub" / QUEUE).iterdir()} == {"1-ward.stop", "1-ward.toml", "2-ward.toml"}


def test_a_run_that_nobody_knows_is_told_with_the_nearest_name(invoke: Callable[..., Result], tmp_path: Path) -> None:
    assert "2-wart: is no run that is going or waits; the nearest is 2-ward" in str(invoke("stop", "2-wart").exception)
    assert "../x" in str(invoke("stop", "../x").exception)
    assert len(list((tmp_path / "hub" / QUEUE).iterdir())) == 2


def test_there_may_be_no_coordinator_to_stop(invoke: Callable[..., Result]) -> None:
    result = invoke("stop")
    assert (result.exit_code, result.output) == (0, "no coordinator is up\n")


def test_a_coordinator_can_be_stopped_that_could_not_be_started_again(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "hub/coordinator.toml").write_text("no settings")
    assert invoke("stop").output == "no coordinator is up\n"
    assert "`tacit coordinator init` makes one" in str(invoke("stop", "--dir", "elsewhere").exception)
    (tmp_path / "hub/coordinator.toml").unlink()
    assert "coordinator.toml: is missing" in str(invoke("stop").exception)


def test_a_coordinator_of_another_machine_is_left_alone(invoke: Callable[..., Result], tmp_path: Path) -> None:
    with held(tmp_path / "hub"):
        (tmp_path / "hub/up.lock").write_text(f"{os.getpid()} elsewhere pid:[7]\n")
        assert "of elsewhere pid:[7]" in str(invoke("stop").exception)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "localhost"])
def test_a_coordinator_that_others_can_reach_never_does_without_tls(
    host: str, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    settings = tmp_path / "hub/coordinator.toml"
    settings.write_text(settings.read_text().replace('host = "127.0.0.1"', f'host = "{host}"'))
    assert f"--insecure: the fleet port listens on {host}" in str(invoke("up", "--insecure").exception)


def test_a_second_coordinator_is_refused_before_it_opens_anything(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    with held(tmp_path / "hub"):
        assert f"up in it already (pid {os.getpid()})" in str(invoke("up").exception)
        assert f"up in it already (pid {os.getpid()})" in str(invoke("up", "hub").exception)
    assert "named twice" in invoke("up", "hub", "--dir", "hub").output

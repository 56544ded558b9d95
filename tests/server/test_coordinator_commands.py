"""`tacit coordinator` from the outside."""

import json
import os
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tacit.models.enrolment import EnrolmentRequest, first_serial
from tacit.models.errors import InputError
from tacit.models.invitation import Invitation
from tacit.models.recipe import load_recipe
from tacit.privacy.codec import sha256
from tacit.privacy.identity import Certificate, Identity
from tacit.server.cli.coordinator import coordinator
from tacit.server.coordinator_directory import CoordinatorDirectory, open_directory
from tacit.server.coordinator_lock import held
from tacit.server.enrolment import Registrar
from tacit.server.membership import Membership
from tacit.server.public_sample import open_public_sample
from tacit.server.store import open_store

Invoke = Callable[..., Result]
MEMBER = Identity(bytes(range(32)))


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command in a directory with a coordinator, called hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TACIT_COORDINATOR", "hub")
    made = CliRunner().invoke(coordinator, ["init", "hub", "--federation", "hospitals", "--name", "hub.example"])
    assert made.exit_code == 0, made
    return lambda *arguments: CliRunner().invoke(coordinator, arguments)


def opened(tmp_path: Path) -> CoordinatorDirectory:
    return open_directory(tmp_path / "hub", datetime.now().astimezone())


def refused(result: Result) -> str:
    assert isinstance(result.exception, InputError), result
    return str(result.exception)


def enrol(invitation: Invitation, directory: CoordinatorDirectory, member: Identity = MEMBER) -> None:
    registrar = Registrar("hospitals", directory.authority, directory.coordinator.public_key, 86_400)
    with open_store(directory.db) as store:
        membership = Membership(store, registrar)
        draft = Certificate(
            client=invitation.name,
            organisation=invitation.name,
            subject_key=member.public_key,
            organisation_key=member.public_key,
            authority_key=directory.authority.public_key,
            serial=first_serial(invitation.number),
            expires_at=membership.now() + 86_400,
        ).endorsed(member)
        membership.enrol(EnrolmentRequest.make(invitation.number, draft, member, invitation.identity))


def test_init_makes_a_directory_and_tells_its_public_half(invoke: Invoke, tmp_path: Path) -> None:
    shown = json.loads(invoke("init", "other", "--port", "7000", "--format", "json").output)
    directory = open_directory(tmp_path / "other", datetime.now().astimezone())
    assert shown == {
        "directory": str(tmp_path / "other"),
        "federation": "federation",
        "url": "https://127.0.0.1:7000",
        "listens_on": "127.0.0.1:7000",
        "ca_sha256": sha256(directory.ca_der).hex(),
        "coordinator_key": directory.coordinator.public_key.hex(),
        "authority_key": directory.authority.public_key.hex(),
    }
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700


def test_init_for_people_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = CliRunner().invoke(coordinator, ["init", "hub", "--name", "hub.example", "--listen", "10.0.0.7"]).output
    directory = opened(tmp_path)
    assert "https://hub.example:9092" in output and "10.0.0.7:9092" in output
    assert directory.coordinator.secret_bytes().hex() not in output


def test_init_never_overwrites(invoke: Invoke) -> None:
    assert "is there already" in refused(invoke("init", "hub"))


def test_an_invitation_is_one_line_that_carries_everything(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("invite", "--name", "north", "--hours", "2")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 1
    invitation, directory = Invitation.parse(result.stdout), opened(tmp_path)
    assert (invitation.url, invitation.name, invitation.organisation) == ("https://hub.example:9092", "north", "")
    assert invitation.ca_sha256 == sha256(directory.ca_der)
    ends = datetime.fromtimestamp(invitation.expires_at).astimezone() - datetime.now().astimezone()
    assert timedelta(minutes=119) < ends <= timedelta(hours=2)
    with open_store(directory.db) as store:
        [kept] = store.list_invitations()
        assert kept.proof_key == invitation.identity.public_key
        assert invitation.secret.hex() not in repr(store.audit())


def test_an_invitation_for_programs_says_when_it_ends(invoke: Invoke) -> None:
    key = MEMBER.public_key.hex()
    shown = json.loads(
        invoke("invite", "--name", "north", "--organisation", "x", "--organisation-key", key, "--format", "json").output
    )
    invitation = Invitation.parse(shown["token"])
    assert (shown["name"], shown["organisation"], invitation.organisation) == ("north", "x", "x")
    assert datetime.fromisoformat(shown["expires_at"]).timestamp() == invitation.expires_at


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "two words"], "--name: a name has"),
        (["--name", "a", "--organisation", "x"], "belong together"),
        (["--name", "a", "--organisation-key", "00" * 32], "belong together"),
        (["--name", "a", "--organisation", "x", "--organisation-key", "beef"], "is no public key"),
        (["--name", "a", "--organisation", "x", "--organisation-key", "no hex"], "is no public key"),
    ],
)
def test_an_invitation_that_nobody_could_use_is_refused(arguments: list[str], message: str, invoke: Invoke) -> None:
    assert message in refused(invoke("invite", *arguments))


def test_the_list_shows_who_is_there_who_was_and_who_may_come(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("clients").output == "nobody is enrolled or invited yet\n"
    enrol(Invitation.parse(invoke("invite", "--name", "north").stdout), opened(tmp_path))
    other = Identity(bytes(32))
    enrol(Invitation.parse(invoke("invite", "--name", "south").stdout), opened(tmp_path), other)
    invoke("revoke", "south", "--reason", "left")
    invoke("invite", "--name", "east")
    shown = json.loads(invoke("clients", "--format", "json").output)
    assert [(one["name"], one["state"], one["reason"], one["public_key"]) for one in shown] == [
        ("north", "active", "", MEMBER.public_key.hex()),
        ("south", "revoked", "left", other.public_key.hex()),
        ("east", "invited", "", None),
    ]
    lines = invoke("clients").output.splitlines()
    assert len(lines) == 4 and lines[1].split()[:3] == ["north", "north", "active"]


def test_an_invitation_that_ended_is_shown_as_such(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    invoke("invite", "--name", "north", "--hours", "1")
    later = datetime.now().astimezone() + timedelta(hours=2)
    monkeypatch.setattr("tacit.server.cli.members.now", lambda: later)
    assert json.loads(invoke("clients", "--format", "json").output)[0]["state"] == "invitation expired"


def test_whoever_is_revoked_can_be_invited_again_and_not_before(invoke: Invoke, tmp_path: Path) -> None:
    enrol(Invitation.parse(invoke("invite", "--name", "north").stdout), opened(tmp_path))
    assert "is a client already" in refused(invoke("invite", "--name", "north"))
    assert MEMBER.public_key.hex() in invoke("revoke", "north").output
    assert invoke("invite", "--name", "north").exit_code == 0
    assert "is void" in invoke("revoke", "north").output
    assert "nobody of this name" in refused(invoke("revoke", "north"))


def test_a_new_authority_is_announced_and_then_switched_to(invoke: Invoke, tmp_path: Path) -> None:
    before = opened(tmp_path).ca_der
    assert "no new authority" in refused(invoke("rotate-ca", "--finish"))
    announced = invoke("rotate-ca").stdout.split()[-1]
    assert opened(tmp_path).ca_der == before and "announced already" in refused(invoke("rotate-ca"))
    assert announced in invoke("rotate-ca", "--finish").output
    assert sha256(opened(tmp_path).ca_der).hex() == announced
    assert Invitation.parse(invoke("invite", "--name", "north").stdout).ca_sha256.hex() == announced


@pytest.mark.parametrize("arguments", [["clients"], ["invite", "--name", "a"], ["revoke", "a"]])
def test_a_directory_that_is_none_is_told(arguments: list[str], invoke: Invoke, tmp_path: Path) -> None:
    assert "`tacit coordinator init` makes one" in refused(invoke(*arguments, "--dir", "absent"))
    (tmp_path / "empty").mkdir(mode=0o700)
    assert "is no coordinator's directory: it has no coordinator.toml" in refused(invoke(*arguments, "--dir", "empty"))


RECIPE = """
name = "ward"
[task]
kind = "tabular-classification"
[data]
source = "csv:own.csv"
test = "{sample}"
[population]
clients = 5
"""


@pytest.mark.parametrize(
    ("sample", "is_told"), [("csv:public.csv", True), ("csv:{here}/rows.csv", False), ("sklearn:wine", False)]
)
def test_whoever_lets_a_recipe_wait_hears_whence_a_path_of_it_is_looked_for(
    sample: str, is_told: bool, invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("age,label\n" + "".join(f"{20 + at},{at % 2}\n" for at in range(20)))
    sample = sample.format(here=tmp_path)
    (tmp_path / "ward.toml").write_text(RECIPE.format(sample=sample))
    with held(tmp_path / "hub"):
        result = invoke("start", "ward.toml")
    assert result.exit_code == 0 and result.stdout.startswith("waits as ") and result.stdout.count("\n") == 1
    told = f"data.test: {sample!r} is looked for from where the coordinator is started\n"
    assert result.stderr == (told if is_told else "")


def test_whoever_lets_a_recipe_wait_hears_that_nobody_is_there_to_train_it(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "ward.toml").write_text(RECIPE.format(sample="sklearn:wine"))
    assert invoke("start", "ward.toml").stderr == "no coordinator is up; `tacit coordinator up hub` trains it\n"
    refused(invoke("start", "wrad.toml"))
    assert len(list((tmp_path / "hub/queue").iterdir())) == 1


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ("split", "data.test: 'split' leaves the coordinator without a public sample"),
        ("per-client", "data.test: 'per-client' leaves the coordinator without a public sample"),
        ("csv:{here}/nobody.csv", "nobody.csv: there is no such file"),
        ("csv:{here}/rows.csv?label=kind", "'label'"),
        ("csv:{here}/one.csv?classes=a,b", "evaluation.validation: 1 public rows are too few"),
        ("sklearn:wime", "wime"),
    ],
)
def test_a_public_sample_of_no_use_is_refused_before_the_recipe_waits_in_the_words_of_whoever_would_train(
    sample: str, words: str, invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("age,label\n" + "".join(f"{20 + at},{at % 2}\n" for at in range(20)))
    (tmp_path / "one.csv").write_text("age,label\n20,a\n")
    (tmp_path / "ward.toml").write_text(RECIPE.format(sample=sample.format(here=tmp_path)))
    said = refused(invoke("start", "ward.toml"))
    assert words in said and not (tmp_path / "hub/queue").exists()
    with pytest.raises(InputError) as caught:
        open_public_sample(load_recipe(tmp_path / "ward.toml"), os.environ)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "sample", ["csv:nobody.csv", "csv:${WHERE}/nobody.csv", "images:/nobody", "sql:sqlite:////nobody"]
)
def test_a_public_sample_that_another_process_looks_for_or_that_takes_long_to_read_is_left_to_it(
    sample: str, invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "ward.toml").write_text(RECIPE.format(sample=sample))
    assert invoke("start", "ward.toml").stdout.startswith("waits as ")

"""An agent's directory: made whole or not at all, private, and refused in one line where it is not what was made."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import dp_event

from tacit.client.audit import verify_audit
from tacit.client.directory import KEY, POLICY, REGISTER, SETTINGS, AgentDirectory, init
from tacit.client.lines import FileLines, InUse
from tacit.client.register import DataSet
from tacit.models.errors import InputError
from tacit.privacy.errors import PrivacyError
from tacit.privacy.filters import renyi_filter
from tacit.privacy.records import Entry

FILES = {KEY, POLICY, REGISTER, SETTINGS}


@pytest.fixture
def made(tmp_path: Path) -> AgentDirectory:
    return init(tmp_path / "agent", "ward-7")


def test_a_new_directory_has_all_its_files_for_its_owner_alone(made: AgentDirectory) -> None:
    assert {path.name for path in made.path.iterdir()} == FILES
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in made.path.iterdir())
    assert AgentDirectory.open(made.path).identity.public_key == made.identity.public_key


def test_permissions_do_not_depend_on_the_mask_of_the_process(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        opened = init(tmp_path / "agent", "a")
    finally:
        os.umask(before)
    assert AgentDirectory.open(opened.path).settings.name == "a"


def test_two_agents_have_two_keys(tmp_path: Path) -> None:
    assert init(tmp_path / "a", "a").identity.public_key != init(tmp_path / "b", "b").identity.public_key


def test_a_new_policy_refuses_everything(made: AgentDirectory) -> None:
    assert not made.policy.approved.recipes and not made.policy.approved.models
    assert made.policy.budgets("client") == {} == made.policy.budgets("example")


def test_nothing_is_made_over_what_is_there(made: AgentDirectory) -> None:
    before = {path: path.read_bytes() for path in made.path.iterdir()}
    with pytest.raises(InputError, match="is there already"):
        init(made.path, "b")
    assert {path: path.read_bytes() for path in made.path.iterdir()} == before


def test_a_directory_that_cannot_be_finished_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be made \\(No space left on device\\)"):
        init(tmp_path / "agent", "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, 'a"\n[', "é"])
def test_an_agent_has_a_name_that_a_certificate_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no name; a name has 1 to 64"):
        init(tmp_path / "agent", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", sorted(FILES))
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_open_is_refused(file: str, mode: int, made: AgentDirectory) -> None:
    (made.path / file).chmod(mode)
    with pytest.raises(InputError, match=rf"{file}.*: (is open to other users|can be read by others); .*chmod 600"):
        AgentDirectory.open(made.path)


def test_a_directory_that_others_can_enter_is_refused(made: AgentDirectory) -> None:
    made.path.chmod(0o750)
    with pytest.raises(InputError, match="is open to other users; close it with chmod 700"):
        AgentDirectory.open(made.path)


@pytest.mark.parametrize("file", sorted(FILES))
def test_a_file_that_is_missing_a_link_or_a_folder_is_refused(file: str, made: AgentDirectory, tmp_path: Path) -> None:
    path = made.path / file
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(InputError, match=rf"(it has no {file}|{file}: is missing)"):
        AgentDirectory.open(made.path)
    (tmp_path / "elsewhere").write_bytes(content)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=rf"{file}: is a link"):
        AgentDirectory.open(made.path)
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises(InputError, match=rf"{file}: is no plain file"):
        AgentDirectory.open(made.path)


@pytest.mark.parametrize("file", sorted(FILES - {KEY}))
@pytest.mark.parametrize("content", [b"[", b"\xff\xfe", b"x = " + b"[" * 9_999, b"unknown = 1", b"#" * 2_000_000])
def test_a_file_of_nonsense_is_refused_in_one_line_that_names_it(
    file: str, content: bytes, made: AgentDirectory
) -> None:
    (made.path / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        AgentDirectory.open(made.path)
    assert str(caught.value).startswith(f"{made.path / file}: ") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_path_that_vanished_is_answered_with_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no such directory; tacit agent init "):
        AgentDirectory.open(tmp_path / "gone")
    with pytest.raises(InputError, match="is no directory"):
        (tmp_path / "file").write_text("")
        AgentDirectory.open(tmp_path / "file")


def test_nobody_is_told_to_close_a_directory_that_is_no_agents(tmp_path: Path) -> None:
    for mode in (0o700, 0o755):
        (tmp_path / "other").mkdir(mode=mode)
        with pytest.raises(InputError, match="is no agent's directory: it has no agent.key") as caught:
            AgentDirectory.open(tmp_path / "other")
        assert "chmod" not in str(caught.value)
        (tmp_path / "other").rmdir()


def test_data_that_are_registered_stand_in_the_register_and_in_the_account(made: AgentDirectory) -> None:
    source = "csv:/secret-ward/x.csv"
    after = made.add_data("visits", DataSet(source=source), {}).remove_data("visits")
    assert AgentDirectory.open(made.path).register == after.register
    entries = verify_audit(made.account_lines())
    assert [(entry.kind, entry.details["data"]) for entry in entries] == [
        ("data-added", "visits"),
        ("data-removed", "visits"),
    ]
    assert b"secret-ward" not in b"".join(made.account_lines())
    assert stat.S_IMODE((made.path / REGISTER).stat().st_mode) == 0o600


def test_two_commands_that_opened_the_directory_at_once_lose_nothing_and_share_no_source(made: AgentDirectory) -> None:
    first, second = AgentDirectory.open(made.path), AgentDirectory.open(made.path)
    first.add_data("visits", DataSet(source="csv:/x.csv"), {})
    with pytest.raises(InputError, match="second privacy budget"):
        second.add_data("other", DataSet(source="csv:/x.csv"), {})
    second.add_data("other", DataSet(source="csv:/y.csv"), {})
    assert list(AgentDirectory.open(made.path).register.sets) == ["visits", "other"]


def test_a_data_set_that_is_refused_leaves_no_trace(made: AgentDirectory) -> None:
    opened = made.add_data("visits", DataSet(source="csv:/x.csv"), {})
    before = {path: path.read_bytes() for path in made.path.iterdir()}
    with pytest.raises(InputError, match="second privacy budget"):
        opened.add_data("other", DataSet(source="csv:/x.csv"), {})
    with pytest.raises(InputError, match="the nearest is 'visits'"):
        opened.remove_data("vists")
    assert {path: path.read_bytes() for path in made.path.iterdir()} == before


RUNNING = """
import sys
from pathlib import Path
from tacit.client.directory import AgentDirectory
with AgentDirectory.open(Path(sys.argv[1])).journal():
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def running(made: AgentDirectory) -> Any:
    command = [sys.executable, "-c", RUNNING, str(made.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def test_while_an_agent_runs_it_can_be_looked_at_and_paused_but_its_register_stays(
    made: AgentDirectory, running: Any
) -> None:
    assert made.is_running
    with pytest.raises(InUse, match="stop the agent that is running"):
        made.add_data("visits", DataSet(source="csv:/x.csv"), {})
    assert AgentDirectory.open(made.path).register == made.register
    assert made.pause.set(True) and made.pause()
    with pytest.raises(InUse):
        made.note_pause()
    with made.rehearsal() as rehearsed:
        assert rehearsed.participations("run") == 0


def test_an_agent_that_has_ended_is_not_running(made: AgentDirectory) -> None:
    assert not made.is_running
    with made.journal():
        pass
    assert not made.is_running


def entry(number: int) -> Entry:
    return Entry("run", number, 0, bytes(32), "noise", dp_event.GaussianDpEvent(20.0), 1e-5, "own")


def test_a_rehearsal_knows_what_was_spent_and_spends_nothing(made: AgentDirectory) -> None:
    budgets = {"assured": renyi_filter(8.0, 1e-5)}
    with made.journal() as journal:
        ledger = journal.ledger("visits", "client", budgets)  # type: ignore[arg-type]
        ledger.countersigned(ledger.reserve([entry(1)]))
        journal.record_contribution("run", 1)
        standing = ledger.state
    files = {path: path.read_bytes() for path in made.path.rglob("*") if path.is_file()}
    with made.rehearsal() as rehearsed:
        assert rehearsed.participations("run") == 1
        again = rehearsed.ledger("visits", "client", {})
        assert again.state == standing and again.unanchored == 0
        with pytest.raises(PrivacyError, match="was reserved before"):
            again.reserve([entry(1)])
        again.reserve([entry(2)])
        rehearsed.audit.append("paused")
    assert {path: path.read_bytes() for path in made.path.rglob("*") if path.is_file()} == files
    assert made.ledgers() == [("visits", "client")]
    assert made.ledger("visits", "client").ledger == standing


def test_ledgers_are_found_by_their_files_and_nothing_else_is(made: AgentDirectory) -> None:
    folder = made.path / "ledgers"
    folder.mkdir(mode=0o700)
    for name in ("a.b.client.ledger", "a.example.ledger", "a.other.ledger", "client.ledger", "a.client.anchors"):
        (folder / name).write_bytes(b"{}\n")
    (folder / "c.client.ledger").touch()  # an agent that died before its first record has granted nothing
    assert made.ledgers() == [("a.b", "client"), ("a", "example")]


# The owner's pause


def test_a_pause_outlives_the_process_and_is_told_once(made: AgentDirectory) -> None:
    assert [made.pause.set(True), made.pause.set(True)] == [True, False]
    for _ in range(2):
        made.note_pause()
    assert AgentDirectory.open(made.path).pause()
    assert [made.pause.set(False), made.pause.set(False)] == [True, False]
    made.note_pause()
    assert [json.loads(line)["kind"] for line in made.account_lines()] == ["paused", "resumed"]


def test_a_running_agent_writes_a_pause_down_when_it_looks(made: AgentDirectory) -> None:
    with made.journal(now=lambda: 5.0) as journal:
        paused = made.pause.noted_in(journal.audit)
        seen = [paused()]
        made.pause.set(True)
        seen += [paused(), paused()]
        made.pause.set(False)
        seen += [paused()]
        assert seen == [False, True, True, False]
        assert [noted.kind for noted in journal.audit.entries()] == ["paused", "resumed"]


def test_a_flag_that_cannot_be_looked_at_is_a_pause(made: AgentDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "lstat", denied)
    assert made.pause()


def test_a_directory_without_room_says_that_it_is_not_paused(
    made: AgentDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="paused: cannot be made"):
        made.pause.set(True)
    assert not made.pause()


def test_lines_in_use_are_told_from_lines_that_are_not(tmp_path: Path) -> None:
    lines = FileLines(tmp_path / "private" / "x")
    with pytest.raises(InUse):
        FileLines(tmp_path / "private" / "x")
    lines.close()
    FileLines(tmp_path / "private" / "x").close()

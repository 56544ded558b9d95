"""The local key is made once, whole, and for its owner alone; nothing shows its secret."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tacit.models.errors import InputError
from tacit.privacy.identity import verify
from tacit.server.local_identity import key_file, local_identity, read_identity


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tacit.key"


def test_the_first_need_makes_a_key_that_only_its_owner_can_read(path: Path) -> None:
    assert read_identity(path) is None
    identity = local_identity(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == identity.secret_bytes()
    assert [one.name for one in path.parent.iterdir()] == ["tacit.key"]


def test_the_mode_does_not_depend_on_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        local_identity(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_same_file_is_the_same_identity(path: Path) -> None:
    first, second = local_identity(path), local_identity(path)
    assert first.public_key == second.public_key
    assert verify(first.public_key, "label", b"message", second.sign("label", b"message"))


def test_two_files_are_two_identities(path: Path) -> None:
    assert local_identity(path).public_key != local_identity(path.with_name("other.key")).public_key


def test_a_key_that_others_can_read_is_refused(path: Path) -> None:
    local_identity(path)
    for mode in (0o640, 0o604, 0o620, 0o601):
        path.chmod(mode)
        with pytest.raises(InputError, match="can be read by others; chmod 600"):
            local_identity(path)


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_file_that_holds_no_key_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InputError, match="holds no key"):
        local_identity(path)
    assert path.read_bytes() == content


def test_a_link_is_not_followed(path: Path) -> None:
    local_identity(path.with_name("real.key"))
    path.symlink_to("real.key")
    with pytest.raises(InputError, match="is a link"):
        local_identity(path)


def test_what_is_no_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(InputError, match="is no plain file"):
        local_identity(path)
    os.mkfifo(path.with_name("pipe"), 0o600)
    with pytest.raises(InputError, match="is no plain file"):
        local_identity(path.with_name("pipe"))


def test_a_key_that_cannot_be_made_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be made") as caught:
        local_identity(tmp_path / "missing" / "tacit.key")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_another_process_made_in_between_is_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = local_identity(path.with_name("other.key"))
    link = os.link

    def overtaken(source: Path, target: Path) -> None:
        link(path.with_name("other.key"), path)
        link(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    assert local_identity(path).public_key == other.public_key
    assert sorted(one.name for one in path.parent.iterdir()) == ["other.key", "tacit.key"]


def test_processes_that_start_together_use_one_key(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tacit.server.local_identity import local_identity;"
        " sys.stdin.readline(); print(local_identity(Path(sys.argv[1])).public_key.hex())"
    )
    command = [sys.executable, "-c", script, str(path)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    keys = set()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        keys.add(child.communicate()[0].strip())
        assert child.returncode == 0
    assert keys == {local_identity(path).public_key.hex()}


def test_a_secret_is_in_no_text_about_it(path: Path) -> None:
    identity = local_identity(path)
    assert identity.secret_bytes().hex() not in repr(identity) + str(vars(identity))
    path.chmod(0o644)
    with pytest.raises(InputError) as caught:
        local_identity(path)
    assert identity.secret_bytes().hex() not in str(caught.value)


def test_the_environment_names_the_file() -> None:
    assert key_file({}) == key_file({"TACIT_KEY": ""}) == Path("tacit.key")
    assert key_file({"TACIT_KEY": "keys/mine.key"}) == Path("keys/mine.key")

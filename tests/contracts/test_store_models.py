"""Model versions never change, aliases remember, and keys are known by their secret, on every database."""

import math
from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tacit.models.errors import InputError
from tacit.server.store import NewModelVersion, NewRun, Store

VERSION = NewModelVersion("fashion", "c" * 64, "run-1", 1, {"accuracy": 0.75}, {"recipe_sha256": "a" * 64}, {"f": "d"})
fresh = count()


@pytest.fixture
def run(store: Store) -> str:
    return store.create_run(NewRun("run-1", "fashion", "image-classification", "", "a" * 64, "runs/run-1")).run


# Models


def digest(number: int) -> str:
    return f"{number:064x}"


def test_a_version_comes_back_as_it_was_added(store: Store, run: str) -> None:
    assert store.add_model_version(VERSION) == 1
    found = store.get_model_version("fashion", 1)
    for field in ("name", "digest", "run", "round", "metrics", "details", "files"):
        assert getattr(found, field) == getattr(VERSION, field)
    assert found.created_at.utcoffset() == timedelta(0)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["x", "y"]), st.integers(0, 5)), max_size=12))
def test_versions_count_distinct_digests_per_name_without_gaps(store: Store, added: list[tuple[str, int]]) -> None:
    prefix = f"m{next(fresh)}"
    expected: dict[str, list[int]] = {}
    for name, number in added:
        seen = expected.setdefault(f"{prefix}{name}", [])
        if number not in seen:
            seen.append(number)
        version = store.add_model_version(NewModelVersion(f"{prefix}{name}", digest(number), None, None))
        assert version == seen.index(number) + 1
    for name, seen in expected.items():
        versions = store.list_versions(name)
        assert [(one.version, one.digest) for one in versions] == [(i + 1, digest(n)) for i, n in enumerate(seen)]


def test_an_existing_version_is_not_changed_by_adding_it_again(store: Store, run: str) -> None:
    store.add_model_version(VERSION)
    before = store.get_model_version("fashion", 1)
    assert store.add_model_version(replace(VERSION, metrics={"accuracy": 0.99}, details={"x": 1})) == 1
    assert store.get_model_version("fashion", 1) == before


@pytest.mark.parametrize("name", ["", "a/b", "../up", "-x", "a@b", "x" * 201, "a b"])
def test_a_name_that_cannot_be_part_of_an_address_is_refused(store: Store, name: str) -> None:
    with pytest.raises(InputError, match="is no name for a model"):
        store.add_model_version(NewModelVersion(name, digest(1), None, None))


@pytest.mark.parametrize("wrong", ["", "../../etc", "A" * 64, "a" * 63])
def test_a_digest_is_64_hexadecimal_digits(store: Store, wrong: str) -> None:
    with pytest.raises(InputError, match="is no digest"):
        store.add_model_version(NewModelVersion("m", wrong, None, None))


def test_a_version_of_a_run_that_is_not_there_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="create the run before its models"):
        store.add_model_version(VERSION)
    assert store.list_models() == []


def test_what_is_asked_of_a_model_that_is_not_there_is_refused(store: Store) -> None:
    for call in (
        lambda: store.list_versions("m"),
        lambda: store.alias_history("m"),
        lambda: store.set_alias("m", "champion", 1, "me"),
        lambda: store.get_model_version("m", 1),
    ):
        with pytest.raises(InputError, match="model 'm': there is no such model"):
            call()
    assert store.alias("m", "champion") is None


@pytest.mark.parametrize("text", ["\0", "\ud800", "a\0b", "x" * 10_000, "'; DROP TABLE models; --"])
def test_no_text_from_outside_makes_a_look_up_fail_otherwise_than_by_not_finding(store: Store, text: str) -> None:
    for call in (store.list_versions, store.alias_history, store.get_run, store.rounds, store.revoke_key):
        with pytest.raises(InputError, match="there is no such") as caught:
            call(text)
        assert str(caught.value).isprintable()
    assert store.alias(text, text) is None
    assert store.check_key(f"tacit_{text}_{text}") is None


@pytest.mark.parametrize("version", [0, -1, 4, 2**31, 10**30])
def test_a_version_that_is_not_there_is_refused(three_versions: Store, version: int) -> None:
    with pytest.raises(InputError, match=f"model m: there is no version {version};"):
        three_versions.get_model_version("m", version)


@pytest.fixture
def three_versions(store: Store) -> Store:
    for number in range(3):
        store.add_model_version(NewModelVersion("m", digest(number), None, None))
    return store


def test_an_alias_is_where_it_was_moved_last_and_its_history_is_kept(three_versions: Store) -> None:
    for version in (1, 3, 2):
        three_versions.set_alias("m", "champion", version, "ada")
    three_versions.set_alias("m", "challenger", 3, "bob")
    assert three_versions.alias("m", "champion") == 2
    history = three_versions.alias_history("m")
    assert [(change.alias, change.version, change.actor) for change in history] == [
        ("champion", 1, "ada"),
        ("champion", 3, "ada"),
        ("champion", 2, "ada"),
        ("challenger", 3, "bob"),
    ]
    [summary] = three_versions.list_models()
    assert (summary.versions, summary.aliases) == (3, {"champion": 2, "challenger": 3})


def test_the_displaced_version_gets_the_other_alias_in_the_same_step(three_versions: Store) -> None:
    three_versions.set_alias("m", "champion", 1, "ada", displaced="previous")
    assert three_versions.alias("m", "previous") is None, "nothing was displaced"
    three_versions.set_alias("m", "champion", 2, "ada", displaced="previous")
    assert (three_versions.alias("m", "champion"), three_versions.alias("m", "previous")) == (2, 1)


def test_setting_an_alias_where_it_is_changes_nothing(three_versions: Store) -> None:
    three_versions.set_alias("m", "champion", 1, "ada", displaced="previous")
    three_versions.set_alias("m", "champion", 2, "ada", displaced="previous")
    three_versions.set_alias("m", "champion", 2, "bob", displaced="previous")
    assert three_versions.alias("m", "previous") == 1
    assert len(three_versions.alias_history("m")) == 3


@pytest.mark.parametrize("alias", ["", "Champion", "2", "latest", "a b", "-x", "a@b", "x" * 65])
def test_an_alias_cannot_be_taken_for_a_version(three_versions: Store, alias: str) -> None:
    with pytest.raises(InputError, match="is no alias"):
        three_versions.set_alias("m", alias, 1, "ada")


def test_an_alias_needs_a_version_that_is_there(three_versions: Store) -> None:
    with pytest.raises(InputError, match="there is no version 4"):
        three_versions.set_alias("m", "champion", 4, "ada")
    assert three_versions.alias_history("m") == []


# API keys


def test_a_key_is_recognised_by_its_secret_and_by_nothing_else(store: Store) -> None:
    key_id, secret = store.create_key("dashboard", ["read", "predict"])
    other_id, other = store.create_key("application", ["predict"])
    found = store.check_key(secret)
    assert found is not None
    assert (found.key_id, found.name, found.scopes) == (key_id, "dashboard", {"read", "predict"})
    crossed = other.replace(other_id, key_id)
    for wrong in (
        "",
        "_",
        key_id,
        f"tacit_{key_id}",
        f"tacit_{key_id}_",
        secret[:-1],
        secret + "x",
        crossed,
        "\ud800\0",
    ):
        assert store.check_key(wrong) is None


def test_a_revoked_key_opens_nothing_and_stays_listed(store: Store) -> None:
    key_id, secret = store.create_key("dashboard", ["read"])
    revoked = store.revoke_key(key_id)
    assert store.check_key(secret) is None
    assert store.revoke_key(key_id) == revoked, "the first time stays"
    assert store.list_keys() == [revoked]
    assert revoked.revoked_at is not None


def test_a_secret_has_256_random_bits_and_is_in_no_repr_and_no_row(store: Store) -> None:
    key = store.create_key("dashboard", ["admin"])
    assert len(key.secret.split("_", 2)[2]) == math.ceil(256 / 6)
    shown = [repr(key), str(key), f"{key}", repr(store.check_key(key.secret)), repr(store.list_keys())]
    shown += [repr(store.audit())]
    with store._engine.connect() as connection:
        shown.append(repr(connection.exec_driver_sql("SELECT * FROM api_keys").all()))
    random_part = key.secret.split("_", 2)[2]
    assert not any(random_part in text for text in shown)


@pytest.mark.parametrize("scopes", [[], ["root"], ["read", "root"]])
def test_scopes_are_those_that_are_known(store: Store, scopes: list[str]) -> None:
    with pytest.raises(InputError, match="some of predict, read, admin"):
        store.create_key("x", scopes)  # type: ignore[arg-type]
    assert store.list_keys() == []


def test_a_key_needs_a_name_and_revoking_an_unknown_one_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="printable name"):
        store.create_key(" ", ["read"])
    with pytest.raises(InputError, match="there is no such key"):
        store.revoke_key("abc")
    assert store.audit() == [], "what did not happen is not in the log"

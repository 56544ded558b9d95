"""Every row has exactly one owner, and who owns what follows from the seed and one key a row."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.data.rows import Column, Findings, Rows, Schema, Source
from tacit.models.data.splits import split
from tacit.models.errors import InputError
from tacit.models.sections import PopulationSection
from tacit.simulations.population import (
    Partition,
    SimulatedHoldings,
    dirichlet,
    iid,
    label_classes,
    matching_test_parts,
    partition,
    shards,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_everything_once(parts: list[np.ndarray] | tuple[np.ndarray, ...], rows: int) -> None:
    joined = np.concatenate(parts)
    assert joined.dtype == np.int64
    np.testing.assert_array_equal(np.sort(joined), np.arange(rows))
    for part in parts:
        assert (np.diff(part) > 0).all()  # rising, so without repetition


CLASSES = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(lambda labels: np.array(labels, np.int64))


@given(st.integers(1, 200), st.data())
def test_iid_gives_every_row_to_one_client_in_shares_that_differ_by_one_at_most(rows: int, data: st.DataObject) -> None:
    clients = data.draw(st.integers(1, rows))
    parts = iid(rows, clients, rng(data.draw(st.integers(0, 99))))
    assert_everything_once(parts, rows)
    sizes = [len(part) for part in parts]
    assert len(sizes) == clients and max(sizes) - min(sizes) <= 1


@given(CLASSES, st.integers(1, 8), st.floats(0.05, 100), st.integers(0, 99))
def test_dirichlet_gives_every_row_to_one_client_and_no_client_nothing(
    classes: np.ndarray, clients: int, alpha: float, seed: int
) -> None:
    try:
        parts = dirichlet(classes, clients, alpha, rng(seed))
    except InputError as error:
        assert "leave one empty every time; raise alpha or ask for fewer clients" in str(error)
        return
    assert_everything_once(parts, len(classes))
    assert len(parts) == clients and min(map(len, parts)) > 0


@given(CLASSES, st.integers(1, 8), st.integers(1, 4), st.integers(0, 99))
def test_shards_gives_every_row_to_one_client(classes: np.ndarray, clients: int, per_client: int, seed: int) -> None:
    if clients * per_client > len(classes):
        with pytest.raises(InputError, match="shards cannot be cut from"):
            shards(classes, clients, per_client, rng(seed))
        return
    parts = shards(classes, clients, per_client, rng(seed))
    assert_everything_once(parts, len(classes))
    # A client has shards of n // s or n // s + 1 rows each.
    smallest, more = divmod(len(classes), clients * per_client)
    for part in parts:
        assert per_client * smallest <= len(part) <= per_client * (smallest + bool(more))


def test_shards_of_equal_classes_give_each_client_at_most_that_many_classes() -> None:
    classes = np.repeat(np.arange(10), 100)
    parts = shards(classes, 50, 2, rng(3))
    held = [len(np.unique(classes[part])) for part in parts]
    assert set(held) == {1, 2} and {len(part) for part in parts} == {20}


def test_a_shard_is_not_a_stretch_of_the_file() -> None:
    parts = shards(np.zeros(1000, np.int64), 2, 1, rng(0))
    assert np.count_nonzero(np.diff(parts[0]) == 1) < 400  # 250 are expected of a random half


def shares(classes: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """Return the share of each class (rows) that each client (columns) holds."""
    counts = np.array([np.bincount(classes[part], minlength=classes.max() + 1) for part in parts], float).T
    return counts / counts.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 10.0])
def test_dirichlet_shares_have_the_mean_and_spread_of_the_distribution(alpha: float) -> None:
    clients, classes = 10, np.repeat(np.arange(200), 500)
    parts = dirichlet(classes, clients, alpha, rng(1))
    drawn = shares(classes, parts)
    # A component of a symmetric Dirichlet has mean 1/K and variance (K-1) / (K^2 (K alpha + 1)).
    variance = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert drawn.mean() == pytest.approx(1 / clients)
    assert drawn.var() == pytest.approx(variance, rel=0.2)


def test_small_alpha_makes_clients_differ_and_large_alpha_makes_them_alike() -> None:
    classes = np.repeat(np.arange(10), 300)
    largest = [shares(classes, dirichlet(classes, 10, alpha, rng(2))).max() for alpha in (0.1, 1.0, 1000.0)]
    assert largest[0] > 0.7 > largest[1] > 0.2 > largest[2]


@pytest.mark.parametrize("alpha", [1e-300, 1e-20, 1e-3, 1e8, 1e300])
def test_an_extreme_alpha_divides_or_is_refused_and_never_warns(alpha: float) -> None:
    classes = np.repeat(np.arange(4), 50)
    try:
        assert_everything_once(dirichlet(classes, 3, alpha, rng(0)), 200)
    except InputError as error:
        assert "population.alpha" in str(error)


def test_dirichlet_says_so_when_a_client_stays_empty() -> None:
    with pytest.raises(InputError, match="population.alpha: 9 clients over 10 rows leave one empty every time"):
        dirichlet(np.zeros(10, np.int64), 9, 0.05, rng(0))


@pytest.mark.parametrize(
    "divide",
    [
        lambda classes, source: iid(len(classes), 7, source),
        lambda classes, source: dirichlet(classes, 7, 0.5, source),
        lambda classes, source: shards(classes, 7, 2, source),
    ],
    ids=["iid", "dirichlet", "shards"],
)
def test_the_same_seed_divides_the_same_way_and_another_differently(divide: Callable) -> None:
    classes = np.arange(200) % 5
    first, again, other = divide(classes, rng(1)), divide(classes, rng(1)), divide(classes, rng(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


# Whole partitions of a source


def a_source(rows: int = 30, files: bool = False, classified: bool = True) -> Source:
    stations = np.array([1234567.0, 1234568.0, 0.5, np.nan])[np.arange(rows) % 4]
    jobs = np.array(["nurse", "clerk", ""], dtype=object)[np.arange(rows) % 3]
    images = np.zeros((rows, 1, 2, 2), np.uint8)
    schema = Schema(
        (Column("station", "numeric"), Column("job", "categorical"), Column("image", "image", (1, 2, 2))),
        "y",
        ("no", "yes") if classified else (),
    )
    labels = np.arange(rows) % 2 if classified else np.arange(rows) / 7
    train = Rows({"station": stations, "job": jobs, "image": images}, labels)
    owners = (np.arange(rows) % 3, ("a.csv", "b.csv", "empty.csv")) if files else (np.empty(0, np.int64), ())
    if files:
        owners = (np.arange(rows) % 2, owners[1])
    return Source(schema, train, None, Findings(rows, 3), *owners)


def divided(source: Source, rows: np.ndarray | None = None, **section: object) -> Partition:
    everything = np.arange(len(source.train)) if rows is None else rows
    return partition(source, everything, PopulationSection.model_validate(section), rng(5))


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards"])
@pytest.mark.parametrize("classified", [True, False])
def test_a_partition_of_some_rows_covers_exactly_those(kind: str, classified: bool) -> None:
    source, rows = a_source(60, classified=classified), np.arange(3, 57)
    found = divided(source, rows, clients=4, partition=kind, alpha=1.0)
    np.testing.assert_array_equal(np.sort(np.concatenate(found.parts)), rows)
    assert found.names == ("client-1", "client-2", "client-3", "client-4")


def test_names_sort_as_numbers_do() -> None:
    names = divided(a_source(120), clients=100).names
    assert (names[0], names[99]) == ("client-001", "client-100")
    assert list(names) == sorted(names) and len(set(names)) == 100


def test_a_directory_of_files_is_divided_by_file_and_a_file_without_rows_is_a_client_without_data() -> None:
    found = divided(a_source(10, files=True), partition="by-file")
    assert found.names == ("a.csv", "b.csv", "empty.csv")
    assert [part.tolist() for part in found.parts] == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9], []]


def test_by_file_divides_the_rows_that_are_left_and_no_others() -> None:
    found = divided(a_source(10, files=True), np.array([1, 2, 8]), partition="by-file")
    assert [part.tolist() for part in found.parts] == [[2, 8], [1], []]


def test_by_file_needs_files() -> None:
    with pytest.raises(InputError, match="population.partition: the source is not a directory of files; use iid"):
        divided(a_source(), partition="by-file")


def test_by_column_makes_one_client_of_each_value_and_one_of_the_missing_ones() -> None:
    found = divided(a_source(6), partition="by-column", column="job")
    assert dict(zip(found.names, [part.tolist() for part in found.parts], strict=True)) == {
        "missing": [2, 5],
        "clerk": [1, 4],
        "nurse": [0, 3],
    }


def test_numbers_that_agree_in_six_digits_are_different_clients() -> None:
    found = divided(a_source(8), partition="by-column", column="station")
    assert dict(zip(found.names, [part.tolist() for part in found.parts], strict=True)) == {
        "missing": [3, 7],
        "0.5": [2, 6],
        "1234567": [0, 4],
        "1234568": [1, 5],
    }


@pytest.mark.parametrize(
    ("column", "expected"),
    [("jop", "population.column: unknown column 'jop'; the nearest is 'job'"), ("image", "is an image column")],
)
def test_by_column_refuses_what_is_no_column_of_single_values(column: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        divided(a_source(), partition="by-column", column=column)


@pytest.mark.parametrize(
    "section", [{"partition": "by-column", "column": "job", "clients": 4}, {"partition": "by-file", "clients": 2}]
)
def test_a_number_of_clients_that_the_data_does_not_have_is_refused(section: dict) -> None:
    with pytest.raises(InputError, match="population.clients: the data has 3 groups, not .; leave it out or say 3"):
        divided(a_source(files=True), **section)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards"])
def test_more_clients_than_rows_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match="population.clients: 31 clients cannot share 30 rows; ask for fewer"):
        divided(a_source(30), clients=31, partition=kind)


def test_a_partition_by_chance_needs_a_number_of_clients() -> None:
    with pytest.raises(InputError, match="'population.clients' is missing"):
        divided(a_source())


# Labels, test rows, splits


def test_numbers_fall_into_tenths_of_their_distribution() -> None:
    classes = label_classes(rng(0).normal(size=1000), classified=False)
    np.testing.assert_array_equal(np.bincount(classes), np.full(10, 100))


def test_constant_numbers_are_one_class() -> None:
    assert len(np.unique(label_classes(np.full(50, 3.5), classified=False))) == 1


@given(CLASSES, CLASSES, st.integers(1, 6), st.integers(0, 99))
def test_every_test_row_goes_to_one_client(train: np.ndarray, test: np.ndarray, clients: int, seed: int) -> None:
    if clients > len(train):
        return
    parts = tuple(iid(len(train), clients, rng(seed)))
    held = matching_test_parts(train, parts, test, rng(seed))
    assert len(held) == clients
    assert_everything_once(held, len(test))


def test_a_clients_test_rows_are_of_the_classes_it_trains_on() -> None:
    train = np.repeat([0, 1, 2], 100)
    parts = (np.arange(100), np.arange(100, 200), np.concatenate([np.arange(50, 100), np.arange(200, 300)]))
    held = matching_test_parts(train, parts, np.repeat([0, 1, 2], 30), rng(0))
    counts = [np.bincount(np.repeat([0, 1, 2], 30)[part], minlength=3).tolist() for part in held]
    assert counts == [[20, 0, 0], [0, 30, 0], [10, 0, 30]]


def test_test_rows_of_a_class_that_nobody_trains_on_are_dealt_out_evenly() -> None:
    held = matching_test_parts(np.zeros(6, np.int64), tuple(iid(6, 3, rng(0))), np.full(9, 7), rng(0))
    assert [len(part) for part in held] == [3, 3, 3]


def test_without_test_rows_nobody_has_any() -> None:
    held = matching_test_parts(np.zeros(6, np.int64), tuple(iid(6, 3, rng(0))), np.empty(0, np.int64), rng(0))
    assert [part.tolist() for part in held] == [[], [], []]


@given(st.integers(0, 200), st.floats(0, 1), st.integers(0, 99))
def test_a_split_has_its_share_and_every_row_is_on_one_side(rows: int, share: float, seed: int) -> None:
    held, rest = split(rows, share, rng(seed))
    assert_everything_once([held, rest], rows)
    assert abs(len(held) - rows * share) <= 0.5


def test_a_split_is_random() -> None:
    held, _ = split(10_000, 0.5, rng(0))
    # The mean of a random half of 0..9999 has a standard deviation of about 10000 / sqrt(12 * 10000).
    assert abs(held.mean() - 4999.5) < 5 * 10_000 / math.sqrt(12 * 10_000)


# Holdings


def test_simulated_holdings_are_the_clients_rows_and_nobody_elses() -> None:
    source = a_source(12)
    holdings = SimulatedHoldings(source.train, np.array([1, 5]), source.train, np.array([7]))
    plan: object = None
    training, test = holdings.training(plan), holdings.test(plan)  # type: ignore[arg-type]
    assert test is not None
    assert training.columns["job"].tolist() == ["clerk", ""] and training.labels.tolist() == [1, 1]
    assert len(training) == 2 and len(test) == 1
    training.columns["station"][:] = -1
    assert source.train.columns["station"][1] != -1


def test_simulated_holdings_without_test_rows_say_none() -> None:
    source = a_source(12)
    holdings = SimulatedHoldings(source.train, np.array([1]), None, np.empty(0, np.int64))
    assert holdings.test(None) is None  # type: ignore[arg-type]


def test_a_repr_holds_no_data() -> None:
    source = a_source(12)
    holdings = SimulatedHoldings(source.train, np.array([1]), None, np.empty(0, np.int64))
    for thing in (holdings, source.train, source):
        assert "nurse" not in repr(thing) and "1234567" not in repr(thing)

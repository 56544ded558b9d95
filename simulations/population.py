"""Who holds which rows: partitions of a data set over simulated clients.

A partition looks at one key for each row (its label, its file, or the one column that a recipe names), never at rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.classes import label_texts
from tacit.models.data.rows import Rows, Source
from tacit.models.errors import InputError
from tacit.models.plan import Plan
from tacit.models.sections import PopulationSection
from tacit.models.spelling import unknown

Indices = NDArray[np.int64]
DRAWS = 1000


@dataclass(frozen=True)
class Partition:
    """The rows of each client, as indices, and the clients' names in the same order."""

    names: tuple[str, ...]
    parts: tuple[Indices, ...]


class SimulatedHoldings:
    """One simulated client's rows, taken from the data set when its agent asks for them."""

    def __init__(self, train: Rows, part: Indices, test: Rows | None, test_part: Indices) -> None:
        """Remember which rows are this client's; none is taken yet."""
        self._train, self._part = train, part
        self._test, self._test_part = test, test_part

    def training(self, plan: Plan) -> Rows:
        """Return the client's training rows."""
        return self._train.take(self._part)

    def test(self, plan: Plan) -> Rows | None:
        """Return the client's test rows."""
        return self._test.take(self._test_part) if self._test is not None else None


def partition(source: Source, rows: Indices, section: PopulationSection, rng: np.random.Generator) -> Partition:
    """Divide the training rows `rows` of a source over clients as a recipe says.

    Raises:
        InputError: the data cannot be divided so.
    """
    if section.partition == "by-file":
        if not len(source.files):
            raise InputError("the source is not a directory of files", where="population.partition", right="use iid")
        return _grouped(source.files[rows], source.file_names, rows, section)
    if section.partition == "by-column":
        return _by_column(source, rows, section)
    if section.clients is None:
        raise InputError("the key 'population.clients' is missing", where="recipe")
    clients = section.clients
    if clients > len(rows):
        raise InputError(
            f"{clients} clients cannot share {len(rows)} rows", where="population.clients", right="ask for fewer"
        )
    if section.partition == "iid":
        parts = iid(len(rows), clients, rng)
    else:
        classes = label_classes(source.train.labels[rows], bool(source.schema.classes))
        if section.partition == "dirichlet":
            parts = dirichlet(classes, clients, section.alpha, rng)
        else:
            parts = shards(classes, clients, section.shards_per_client, rng)
    width = len(str(clients))
    names = tuple(f"client-{index:0{width}d}" for index in range(1, clients + 1))
    return Partition(names, tuple(rows[part] for part in parts))


def iid(rows: int, clients: int, rng: np.random.Generator) -> list[Indices]:
    """Deal shuffled rows out evenly."""
    return [np.sort(part) for part in np.array_split(rng.permutation(rows), clients)]


def dirichlet(classes: Indices, clients: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Divide each class over the clients in proportions drawn from a symmetric Dirichlet distribution.

    Hsu, Qi and Brown 2019 (arXiv:1909.06335). Drawn again until no client is empty.

    Args:
        classes: the class of each row, shape `(rows,)`.
        clients: how many clients.
        alpha: the concentration; small values give clients few classes each.
        rng: the source of the proportions and of the order.

    Raises:
        InputError: a client stays empty in every one of many draws.
    """
    values = np.unique(classes)
    by_class = [np.flatnonzero(classes == value) for value in values]
    for _ in range(DRAWS):
        cuts = [
            np.round(np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(members)).astype(np.int64)
            for members in by_class
        ]
        sizes = sum(np.diff(cut, prepend=0, append=len(members)) for cut, members in zip(cuts, by_class, strict=True))
        if np.min(sizes) > 0:
            break
    else:
        raise InputError(
            f"{clients} clients over {len(classes)} rows leave one empty every time",
            where="population.alpha",
            right="raise alpha or ask for fewer clients",
        )
    pieces = [np.split(rng.permutation(members), cut) for cut, members in zip(cuts, by_class, strict=True)]
    return [np.sort(np.concatenate([piece[client] for piece in pieces])) for client in range(clients)]


def shards(classes: Indices, clients: int, per_client: int, rng: np.random.Generator) -> list[Indices]:
    """Sort by class, cut into equal shards, and deal each client `per_client` of them (McMahan et al. 2017, section 3).

    Raises:
        InputError: there are fewer rows than shards.
    """
    if clients * per_client > len(classes):
        raise InputError(
            f"{clients * per_client} shards cannot be cut from {len(classes)} rows",
            where="population.shards_per_client",
            right="ask for fewer",
        )
    # Rows of one class are shuffled first, so that a shard is not a stretch of the file.
    order = rng.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    pieces = np.array_split(order, clients * per_client)
    hands = rng.permutation(clients * per_client).reshape(clients, per_client)
    return [np.sort(np.concatenate([pieces[shard] for shard in hand])) for hand in hands]


def label_classes(labels: NDArray[np.generic], classified: bool, bins: int = 10) -> Indices:
    """Return a class for each label: the label itself, or the tenth of the distribution that a number falls in."""
    if classified:
        return labels.astype(np.int64)
    edges = np.quantile(labels.astype(np.float64), np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, labels.astype(np.float64)).astype(np.int64)


def matching_test_parts(
    train_classes: Indices, parts: tuple[Indices, ...], test_classes: Indices, rng: np.random.Generator
) -> list[Indices]:
    """Divide test rows over the clients so that each client's test set resembles what it trains on.

    A test row of a class goes to a client with the probability with which a training row of that class is there.
    """
    held: list[list[Indices]] = [[] for _ in parts]
    for value in np.unique(test_classes):
        members = rng.permutation(np.flatnonzero(test_classes == value))
        counts = np.array([np.count_nonzero(train_classes[part] == value) for part in parts], dtype=np.float64)
        shares = counts / counts.sum() if counts.sum() else np.full(len(parts), 1 / len(parts))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for client, piece in enumerate(np.split(members, cuts)):
            held[client].append(piece)
    return [np.sort(np.concatenate(pieces)) if pieces else np.empty(0, dtype=np.int64) for pieces in held]


def _by_column(source: Source, rows: Indices, section: PopulationSection) -> Partition:
    names = [column.name for column in source.schema.columns]
    if section.column not in names:
        raise unknown("column", section.column, names, where="population.column")
    values = source.train.columns[section.column][rows]
    if values.ndim != 1:
        raise InputError("is an image column", where="population.column", right="name a column of single values")
    groups, files = np.unique(label_texts(values), return_inverse=True)
    return _grouped(files, tuple(group or "missing" for group in groups.tolist()), rows, section)


def _grouped(groups: Indices, names: tuple[str, ...], rows: Indices, section: PopulationSection) -> Partition:
    if section.clients is not None and section.clients != len(names):
        raise InputError(
            f"the data has {len(names)} groups, not {section.clients}",
            where="population.clients",
            right=f"leave it out or say {len(names)}",
        )
    return Partition(names, tuple(rows[np.flatnonzero(groups == index)] for index in range(len(names))))

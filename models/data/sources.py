"""Open a data source by its address: the one door to all connectors."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Protocol

from tacit.models.data.audio_folders import open_audio
from tacit.models.data.classes import OTHERS
from tacit.models.data.csv_files import open_csv
from tacit.models.data.idx_files import open_idx
from tacit.models.data.image_folders import open_images
from tacit.models.data.jsonl_files import open_jsonl
from tacit.models.data.npz_file import open_npz
from tacit.models.data.options import Address, listed, parse_address, written
from tacit.models.data.parquet_files import open_parquet
from tacit.models.data.rows import Schema, Source
from tacit.models.data.sklearn_sets import open_sklearn
from tacit.models.data.sql_query import open_sql
from tacit.models.data.synthetic import open_synthetic
from tacit.models.errors import InputError
from tacit.models.spelling import unknown

ENTRY_POINT_GROUP = "tacit.connectors"


class Connector(Protocol):
    """What reads one kind of source."""

    def __call__(self, location: str, options: Mapping[str, str], *, task: str, label: str) -> Source:
        """Read the source at `location`.

        Args:
            location: what stands between `scheme:` and `?`, variables replaced.
            options: what stands behind `?`; an option that is not known must be refused.
            task: the recipe's task kind, such as "tabular-classification".
            label: the name of the label; for a table, the column that holds it.

        Raises:
            InputError: anything that is wrong with the source; never with a value from a row in its text.
        """
        ...


CONNECTORS: dict[str, Connector] = {
    "audio": open_audio,
    "csv": open_csv,
    "idx": open_idx,
    "images": open_images,
    "jsonl": open_jsonl,
    "npz": open_npz,
    "parquet": open_parquet,
    "sklearn": open_sklearn,
    "sql": open_sql,
    "synthetic": open_synthetic,
}


# What the agreed dictionary of a federation can fix when one owner's own rows leave it open.
_FIXED_BY_SCHEMA: dict[str, tuple[str, ...]] = {
    "audio": ("classes",),
    "csv": ("numeric", "categorical", "classes"),
    "idx": ("classes",),
    "images": ("channels", "classes"),
    "jsonl": ("columns", "numeric", "categorical", "classes"),
    "npz": ("classes",),
    "parquet": ("numeric", "categorical", "classes"),
    "sql": ("numeric", "categorical", "classes"),
}


def open_source(
    source: str,
    *,
    task: str,
    label: str = "label",
    environ: Mapping[str, str],
    agreed: Schema | None = None,
) -> Source:
    """Read the data source `scheme:location?option=value&...` whole into memory.

    Installed distributions add schemes through the entry point group `tacit.connectors` (name: the scheme; object: a
    `Connector`); they cannot replace a scheme of Tacit's own.

    Args:
        source: the address; `${NAME}` stands for a variable of `environ`.
        task: the recipe's task kind.
        label: the name of the label; for a table, the column that holds it.
        environ: where variables come from, usually `os.environ`.
        agreed: the dictionary of a federation, if there is one. Kinds of columns and classes then come from it where
            the address does not give them, and not from the rows of one owner, which may hold one class alone. Rows of
            other classes are left out.

    Raises:
        InputError: the address is malformed, its scheme unknown, or the source cannot be used.
    """
    address = parse_address(source, environ)
    connector = CONNECTORS.get(address.scheme) or _installed_connector(address.scheme)
    options = {**address.options, **_agreed_options(address, agreed)} if agreed else address.options
    return connector(address.location, options, task=task, label=label)


def _agreed_options(address: Address, agreed: Schema) -> dict[str, str]:
    """Return the options that say what `agreed` does, for columns that the address leaves open."""
    fixed = _FIXED_BY_SCHEMA.get(address.scheme, ())
    given = {kind: listed(address.options, kind) for kind in ("numeric", "categorical", "drop")}
    mentioned = {name for names in given.values() for name in names}
    options: dict[str, str] = {}
    for kind in ("numeric", "categorical"):
        names = [column.name for column in agreed.columns if column.kind == kind and column.name not in mentioned]
        if kind in fixed and names:
            options[kind] = written((*given[kind], *names))
    if "columns" in fixed and "columns" not in address.options:
        options["columns"] = written(
            dict.fromkeys((*(column.name for column in agreed.columns), agreed.label, *sorted(mentioned)))
        )
    if "channels" in fixed and agreed.columns[0].kind == "image" and "channels" not in address.options:
        options["channels"] = str(agreed.columns[0].shape[0])
    if "classes" in fixed and agreed.classes and "classes" not in address.options:
        # Whether a row has another label is nothing that a coordinator may learn, who chooses the classes.
        options["classes"] = written((*agreed.classes, OTHERS))
    return options


def _installed_connector(scheme: str) -> Connector:
    """Load the connector that some installed distribution offers for `scheme`."""
    offered = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if scheme not in offered:
        raise unknown("scheme", scheme, sorted({*CONNECTORS, *offered}), where="data source")
    try:
        connector: Connector = offered[scheme].load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            "its connector cannot be loaded", where=f"data source {scheme}", right="install it again, or remove it"
        ) from error
    return connector

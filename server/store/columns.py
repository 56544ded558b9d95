"""Column types that come back from every database as they went in: UTC times, NaN, JSON with NaN, any text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Double, Text, TypeDecorator

_NOT_FINITE = "$float"


class UtcTime(TypeDecorator[datetime]):
    """A time with its zone, as UTC; databases that keep no zone are given UTC without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn an aware time into what the database keeps."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time needs its zone")
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn what the database kept into an aware time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Figure(TypeDecorator[float]):
    """A float64 in a column that allows NULL, because SQLite turns NaN into NULL: here NULL means NaN."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        """Store NaN as NULL everywhere, so that every database holds the same."""
        return None if value is None or math.isnan(value) else float(value)

    def process_result_value(self, value: float | None, dialect: Dialect) -> float:
        """Read NULL as NaN."""
        return math.nan if value is None else float(value)


class JsonObject(TypeDecorator[dict[str, Any]]):
    """A JSON object whose floats may be NaN or infinite, which JSON itself cannot write."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, Any] | None, dialect: Dialect) -> dict[str, Any] | None:
        """Write each float that is not finite as `{"$float": "nan"}`."""
        return None if value is None else _to_json(value)

    def process_result_value(self, value: dict[str, Any] | None, dialect: Dialect) -> dict[str, Any] | None:
        """Read those floats back."""
        return None if value is None else _from_json(value)


class FreeText(TypeDecorator[str]):
    """Text that may come from a peer: what a database would choke on (NUL, lone surrogates) is replaced.

    Without this a client could make its coordinator's commit fail with one byte in the reason it gives.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Replace what no database accepts."""
        if value is None:
            return None
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def _to_json(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(key): _to_json(item) for key, item in value.items()}
        case list() | tuple():
            return [_to_json(item) for item in value]
        case float():
            return float(value) if math.isfinite(value) else {_NOT_FINITE: str(float(value))}
        case None | bool() | int() | str():
            return value
    raise TypeError(f"a {type(value).__name__} cannot be stored as JSON")


def _from_json(value: Any) -> Any:
    match value:
        case {"$float": "nan" | "inf" | "-inf" as text} if len(value) == 1:
            return float(text)
        case dict():
            return {key: _from_json(item) for key, item in value.items()}
        case list():
            return [_from_json(item) for item in value]
    return value

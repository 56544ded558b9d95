"""The files of a run: what a person reads, and what the report is made from."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tacit.models.durable import write_file
from tacit.models.errors import InputError, Unwritable
from tacit.server.store.records import RoundRecord

_OUTCOMES = ("reported", "dropped", "late", "refused")


class RunDirectory:
    """The directory of one run; every file is replaced whole, so that a crash never leaves half of one."""

    def __init__(self, path: Path) -> None:
        """Use `path`, which `create` makes."""
        self.path = path

    def create(self) -> None:
        """Make the directory.

        Raises:
            InputError: it exists already, or cannot be made.
        """
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise InputError(
                "exists already", where=str(self.path), right="choose another --out, or go on with it by --resume"
            ) from None
        except OSError as error:
            raise Unwritable(f"cannot be made ({error.strerror})", where=str(self.path)) from None

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole."""
        write_file(self.path / name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write plain values; what is not finite becomes null."""
        self.write_text(name, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Return what `write_json` wrote."""
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def write_rounds(self, rounds: Iterable[RoundRecord]) -> list[dict[str, Any]]:
        """Write `rounds.jsonl`, `rounds.csv` and `participation.jsonl`, and return the rounds."""
        attempts = list(rounds)
        overview = [round_overview(record) for record in attempts]
        self.write_text("rounds.jsonl", "".join(json.dumps(finite(one), allow_nan=False) + "\n" for one in overview))
        columns = list(dict.fromkeys(key for one in overview for key in one))
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(overview)
        self.write_text("rounds.csv", table.getvalue())
        lost = [
            {
                "round": record.number,
                "attempt": record.attempt,
                "client": member.client,
                "outcome": member.outcome,
                "reason": member.reason,
                "exchange": member.exchange,
            }
            for record in attempts
            for member in record.participation
            if member.outcome != "reported"
        ]
        self.write_text("participation.jsonl", "".join(json.dumps(one) + "\n" for one in lost))
        return overview

    def write_manifest(self) -> None:
        """Write `MANIFEST.sha256` over every file that is there, in the form that `sha256sum --check` reads."""
        lines = []
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            if path.is_file() and name != "MANIFEST.sha256" and not path.name.startswith("."):
                with path.open("rb") as file:
                    lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
        self.write_text("MANIFEST.sha256", "".join(lines))


def round_overview(record: RoundRecord) -> dict[str, Any]:
    """Return one attempt of a round as one flat line."""
    counts = Counter[str](member.outcome for member in record.participation)
    return {
        "round": record.number,
        "attempt": record.attempt,
        "committed": record.outcome == "committed",
        "reason": str(record.extra.get("reason", "")),
        "seconds": record.seconds,
        "selected": len(record.participation),
        **{outcome: counts[outcome] for outcome in _OUTCOMES},
        **record.metrics,
    }


def finite(value: Any) -> Any:
    """Return plain values with null where a number is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

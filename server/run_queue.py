"""The recipes that wait in a coordinator's directory, as files; the oldest is trained first.

| file in `queue` | means |
|---|---|
| RUN.toml | the recipe of a run that waits, or is being trained |
| RUN.failed | one that was put aside; its first line says why |
| RUN.stop | the run is to end after the attempt that is going |
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tacit.models.durable import flush_directory, write_file
from tacit.models.errors import InputError
from tacit.models.recipe import Recipe, recipe_from_dict
from tacit.server.names import check_names
from tacit.server.public_sample import check_public_sample

QUEUE = "queue"
WAITS, FAILED, STOP = ".toml", ".failed", ".stop"
WHY = "# was not trained: "
LONGEST_NAME = 64  # characters
LONGEST_REASON = 500


@dataclass(frozen=True)
class Queued:
    """A recipe in the queue: the run that is made of it, the recipe's name, since when, and why it was put aside.

    Attributes:
        members: how many have to be there before the run begins; 0 where the recipe cannot be read.
    """

    run: str
    recipe: str
    since: datetime
    reason: str = ""
    members: int = 0


def members_for(recipe: Recipe) -> int:
    """Return how many members a recipe's run waits for before it begins."""
    return recipe.training.cohort or max(recipe.secure_aggregation.min_cohort, recipe.population.clients or 0)


def queued(directory: Path, kind: str = WAITS) -> tuple[Queued, ...]:
    """Return what waits in a coordinator's directory, in order, or what was put aside."""
    found = (_queued(path) for path in sorted((directory / QUEUE).glob(f"*{kind}")))
    return tuple(one for one in found if one is not None)


def enqueue(directory: Path, recipe: Recipe, now: datetime) -> Path:
    """Let a recipe wait in a coordinator's directory, and return its file; the oldest is trained first.

    The file's name without its ending is the name of the run.

    Raises:
        InputError: the recipe is for a simulation, names what is not there, has a budget or a public sample of no use,
            or the file cannot be written.
    """
    refuse_simulations(recipe)
    check_names(recipe)
    if recipe.population.epsilon_budget is not None:
        from tacit.server.feasibility import check_budget  # brings the accounting, a second that most need not wait for

        check_budget(recipe)
    check_public_sample(recipe)
    # The run's name as well, which every message carries and so has a bounded length.
    name = f"{now.astimezone(UTC):%Y%m%d-%H%M%S-%f}-{recipe.name}"[:LONGEST_NAME]
    path = directory / QUEUE / f"{name}{WAITS}"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_file(path, recipe.to_toml().encode())
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(path)) from None
    return path


def refuse_simulations(recipe: Recipe) -> None:
    """Refuse what only a simulation may do.

    Raises:
        InputError: the recipe leaves the masks out, or asks for noise as if the cohort were larger.
    """
    if not recipe.secure_aggregation.enabled or recipe.secure_aggregation.mode != "real":
        raise InputError(
            "a federation's members answer masked rounds alone",
            where="secure_aggregation",
            right='enabled = true and mode = "real"',
        )
    if recipe.privacy.noise_cohort:
        raise InputError("is for simulations", where="privacy.noise_cohort", right="leave it out")


def withdraw(directory: Path, run: str) -> bool:
    """Take a recipe out of the queue, and return whether it was there.

    Raises:
        InputError: it cannot be removed.
    """
    path = directory / QUEUE / f"{run}{WAITS}"
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"cannot be removed ({error.strerror})", where=str(path)) from None
    flush_directory(path.parent)
    return True


def put_aside(directory: Path, run: str, reason: str) -> None:
    """Take a recipe out of the queue and keep it with the reason, unless somebody has removed it by now.

    Raises:
        OSError: it cannot be moved; it is still in the queue.
    """
    path = directory / QUEUE / f"{run}{WAITS}"
    aside = path.with_suffix(FAILED)
    line = "".join(character if character.isprintable() else " " for character in reason[:LONGEST_REASON])
    try:
        write_file(aside, f"{WHY}{line}\n".encode("utf-8", "replace") + path.read_bytes(), private=True)
        path.unlink()
    except FileNotFoundError:
        return
    except OSError:  # a full disk may take no new file, and still take a new name
        path.rename(aside)


def ask_to_stop(directory: Path, run: str) -> None:
    """Ask whoever trains a run to end it after the attempt that is going, with the model so far; on disk on return.

    Raises:
        InputError: it cannot be written.
    """
    path = directory / QUEUE / f"{run}{STOP}"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_file(path, b"", private=True)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(path)) from None


def forget_stop(directory: Path, run: str) -> None:
    """Take the wish back that a run ends, once it has, or will not begin."""
    (directory / QUEUE / f"{run}{STOP}").unlink(missing_ok=True)


def forget_idle_stops(directory: Path) -> None:
    """Take back wishes about runs that are not in the queue; for whoever trains what is, between two runs."""
    for path in (directory / QUEUE).glob(f"*{STOP}"):
        if not path.with_suffix(WAITS).exists():
            path.unlink(missing_ok=True)


def is_to_stop(directory: Path, run: str) -> bool:
    """Return whether somebody has asked for a run to end."""
    return (directory / QUEUE / f"{run}{STOP}").exists()


def _queued(path: Path) -> Queued | None:
    try:
        since = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        text = path.read_text(encoding="utf-8", errors="replace")
        reason = text.partition("\n")[0].removeprefix(WHY) if text.startswith(WHY) else ""
        values = tomllib.loads(text)
    except FileNotFoundError:  # it had its turn a moment ago
        return None
    except OSError:  # whoever trains it will say so
        return Queued(path.stem, "", since)
    except ValueError:
        return Queued(path.stem, "", since, reason)
    return Queued(path.stem, str(values.get("name", "")), since, reason, _members(values))


def _members(values: dict[str, Any]) -> int:
    try:
        return members_for(recipe_from_dict(values))
    except InputError:  # whoever trains it will say so
        return 0

"""What the owner's account says of the things that a coordinator asks: enough to be read without the recipe."""

from __future__ import annotations

from tacit.client.audit import Detail
from tacit.client.own_code import code_digest
from tacit.models.messages import Instruction
from tacit.models.recipe import Recipe
from tacit.privacy.errors import PrivacyError, RemoteProtocolError
from tacit.privacy.secagg.offer import REAL, Offer


def at(instruction: Instruction) -> dict[str, Detail]:
    """Return which attempt an entry is about."""
    return {"run": instruction.run, "round": instruction.round, "attempt": instruction.attempt}


def told(recipe: Recipe, offer: Offer | None) -> dict[str, Detail]:
    """Return what the account says of an offer, so that its owner can read it without the recipe."""
    said: dict[str, Detail] = {
        "recipe": recipe.digest,
        "name": recipe.name,
        "model": recipe.model.factory or recipe.model.name,
        "code_sha256": code_digest(recipe.model.factory) if recipe.model.factory else None,
        "rounds": recipe.training.rounds,
        "unit": recipe.privacy.unit,
        "masked": offer is not None and offer.mode == REAL,
    }
    if recipe.evaluation.only:
        said["evaluates"] = recipe.evaluation.rows
    if offer is not None:
        said |= {"offer": offer.digest.hex(), "members": offer.cohort, "min_survivors": offer.min_survivors}
    return said


def failure(error: Exception) -> dict[str, Detail]:
    """Return a code and a reason: of what nobody foresaw the kind alone, as its text may hold a row of data."""
    code = error.reason if isinstance(error, RemoteProtocolError) else "failed"
    return {"code": code, "reason": str(error) if isinstance(error, PrivacyError) else type(error).__name__}

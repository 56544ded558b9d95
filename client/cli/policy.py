"""`tacit agent policy`: what the agent does for a coordinator."""

from __future__ import annotations

import re
from pathlib import Path

import click

from tacit.client.cli.options import OLD_POLICY, cohort_option, data_option, dir_option, set_option
from tacit.printing import Format, format_option, print_fields, print_json, print_table

REFUSED = 3


@click.command()
@dir_option
@format_option
def show(path: Path, output: Format) -> None:
    """Print the policy's file; with json what it says, defaults included.

    Example: tacit agent policy show
    """
    from tacit.client.directory import AgentDirectory

    directory = AgentDirectory.open(path)
    if output == "json":
        print_json(directory.policy.model_dump(mode="json"))
    else:
        click.echo(directory.policy_text(), nl=False)


@click.command()
@dir_option
def explain(path: Path) -> None:
    """Say in sentences what the policy means.

    Example: tacit agent policy explain
    """
    from tacit.client.directory import AgentDirectory

    for sentence in AgentDirectory.open(path).policy.explain():
        click.echo(sentence)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@set_option
@data_option
@cohort_option
@dir_option
@format_option
def check(
    recipe: Path, overrides: tuple[str, ...], data: str | None, cohort: int | None, path: Path, output: Format
) -> int:
    """Say whether the policy and the ledger would accept the offers of RECIPE now, and print the digest to approve.

    The offers are made here as a coordinator makes them, with your rows to say how large the model is; a federation's
    own may be somewhat larger. Nothing is trained, and nothing is written. Exits 3 if one would be refused.

    Example: tacit agent policy check recipe.toml --data visits --cohort 20
    """
    from tacit.client.audit import verify_audit
    from tacit.client.cli.tried import tried
    from tacit.client.own_code import code_digest
    from tacit.client.rehearsal import refusals
    from tacit.models.broadcast import size_of
    from tacit.privacy.errors import PrivacyError

    try:
        made = tried(path, recipe, overrides, data, cohort)
        answers = {step.name: refusals(step, made.consent) for step in made.steps}
        in_force = None
        if made.directory.is_running:
            in_force = made.directory.policy_in_force(verify_audit(made.directory.account_lines()))
    except PrivacyError as error:
        raise click.ClickException(str(error)) from None
    factory = made.recipe.model.factory
    sizes = [size for step in made.steps if (size := size_of(step.instruction.arrays)) is not None]
    found = {
        "accepted": not any(answers.values()),
        "steps": [
            {
                "step": step,
                "accepted": not reasons,
                "code": reasons[0].partition(":")[0] if reasons else None,
                "reason": reasons[0] if reasons else None,
                "reasons": reasons,
            }
            for step, reasons in answers.items()
        ],
        "recipe_sha256": made.recipe.digest,
        "code_sha256": code_digest(factory) if factory else None,
        "data": made.dataset,
        "cohort": made.cohort,
        "parameters": sizes[-1] if sizes else None,
        "in_force": in_force,
    }
    if output == "json":
        print_json(found)
    else:
        lines = [(step, reason) for step, reasons in answers.items() for reason in reasons or ["accepted"]]
        print_table(("step", "answer"), lines)
        click.echo()
        shown = ("recipe_sha256", "code_sha256", "data", "cohort", "parameters")
        print_fields({name.replace("_sha256", " to approve"): found[name] for name in shown})
        if in_force is False:
            click.echo(f"in force: {OLD_POLICY}", err=True)
    return 0 if found["accepted"] else REFUSED


@click.command()
@click.argument("key", metavar="KEY")
@dir_option
def pin(key: str, path: Path) -> None:
    """Pin an organisation by its public KEY, in hex, as it gave it to you: by telephone, say, not by the coordinator.

    With any pins, only members of pinned organisations count, each organisation's up to a number that the policy says.
    The file keeps its comments; where that cannot be done safely, the line to add is printed instead. An agent that is
    running obeys from its next start.

    Example: tacit agent policy pin 5d2c7f0a5d2c7f0a5d2c7f0a5d2c7f0a5d2c7f0a5d2c7f0a5d2c7f0a5d2c7f0a
    """
    from tacit.client.directory import AgentDirectory
    from tacit.client.policy_file import with_pin
    from tacit.models.errors import InputError

    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise InputError("is no public key", where="KEY", right="the 64 hex digits that `tacit agent org-key` prints")
    directory = AgentDirectory.open(path)
    text = directory.policy_text()
    changed = with_pin(text, key)
    if changed == text:
        click.echo("it is pinned already")
        return
    pinned = directory.write_policy(changed).policy.secure_aggregation.pinned_organisations
    click.echo(f"pinned; {len(pinned)} in all")

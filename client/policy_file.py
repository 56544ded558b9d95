"""A policy as a file: read strictly, and written once with every key explained."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from tacit.client.clauses import PrivacyClause
from tacit.client.policy import Policy, shown
from tacit.models.errors import InputError
from tacit.models.spelling import suggestion
from tacit.privacy.errors import PrivacyError
from tacit.privacy.filters import renyi_filter


def read_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        InputError: the file cannot be read, is no TOML, or says something that a policy cannot say.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", where=str(path), right="a policy is a TOML file") from None
    return parse_policy(text, where=str(path))


def parse_policy(text: str, *, where: str = "policy") -> Policy:
    """Parse a policy from TOML text; see `read_policy`."""
    try:
        policy = Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not valid TOML: {error}", where=where) from None
    except ValidationError as error:
        raise _readable(error, where) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or as many brackets
        raise InputError(f"is not usable TOML ({type(error).__name__})", where=where) from None
    _check_together(policy.privacy, where)
    return policy


def default_policy_toml() -> str:
    """Return a policy file that says what every key means and, until its owner changes it, refuses everything."""
    lines = ["# What this agent does for a coordinator. Whatever is not said here is refused."]
    for table, key in Policy.model_fields.items():
        clause = key.get_default()
        lines += ["", f"[{table}]", *_comment(type(clause).__doc__ or "")]
        for name, field in type(clause).model_fields.items():
            lines += ["", *_comment(field.description or "")]
            value = field.get_default()
            if isinstance(value, dict):
                lines += [f"# [{table}.{name}]", '# "package.module:function" = "0123..."']
            elif value is None:
                lines.append(f"# {name} = {json.dumps((field.examples or [''])[0])}")
            else:
                lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def with_pin(text: str, organisation_key: str) -> str:
    """Return the text of a policy that pins one more organisation; comments and everything else stay as they are.

    Args:
        text: a policy.
        organisation_key: the organisation's public key, in hex.

    Raises:
        InputError: the text is no policy, or what to add cannot be put into it safely: by hand, then.
    """
    before = parse_policy(text)
    pinned = before.secure_aggregation.pinned_organisations
    if organisation_key in pinned:
        return text
    hides = before.secure_aggregation.model_copy(update={"pinned_organisations": (*pinned, organisation_key)})
    wanted = before.model_copy(update={"secure_aggregation": hides})
    for changed in _pinning_attempts(text, organisation_key):
        try:
            if parse_policy(changed) == wanted:
                return changed
        except InputError:
            continue
    raise InputError(
        "cannot be changed without touching anything else",
        where="policy",
        right=f'add "{organisation_key}" to pinned_organisations in [secure_aggregation] by hand',
    )


def _pinning_attempts(text: str, organisation_key: str) -> Iterator[str]:
    """Yield texts with the key at places that could be right; only one of a policy that says so is."""
    listed = re.compile(r"^([ \t]*pinned_organisations[ \t]*=[ \t]*\[)((?:[^\]#]|#[^\n]*\n)*)\]", re.MULTILINE)
    for found in listed.finditer(text):
        inside = found[2]
        comma = "," if re.sub(r"#[^\n]*", "", inside).strip().endswith(('"', "'")) else ""
        # A comma within a comment would separate nothing, so it comes first on the line of the new key.
        end = f"{inside.rstrip(' ')}{comma} " if "\n" in inside else f"{inside}{comma}{' ' if inside.strip() else ''}"
        yield f'{text[: found.start()]}{found[1]}{end}"{organisation_key}"]{text[found.end() :]}'
    for found in re.finditer(r"^[ \t]*\[secure_aggregation\][^\n]*\n", text, re.MULTILINE):
        yield f'{text[: found.end()]}pinned_organisations = ["{organisation_key}"]\n{text[found.end() :]}'
    yield f'{text.rstrip()}\n\n[secure_aggregation]\npinned_organisations = ["{organisation_key}"]\n'


def _check_together(privacy: PrivacyClause, where: str) -> None:
    """Refuse budgets that contradict each other, or that no round could fit into."""
    promised = (privacy.promised_epsilon_total, privacy.promised_epsilon_per_run)
    if not privacy.accept_promised_noise and promised != (None, None):
        raise InputError(
            "a budget for promised noise means nothing without privacy.accept_promised_noise",
            where=where,
            right="set it to true, or leave the budget out",
        )
    if privacy.accept_promised_noise and privacy.promised_epsilon_total is None:
        raise InputError(
            "privacy.accept_promised_noise grants nothing by itself", where=where, right="set promised_epsilon_total"
        )
    for prefix in ("", "promised_"):
        total, per_run = (getattr(privacy, f"{prefix}epsilon_{span}") for span in ("total", "per_run"))
        if per_run is not None and (total is None or per_run > total):
            raise InputError(
                f"privacy.{prefix}epsilon_per_run is more than {prefix}epsilon_total", where=where, right="grant less"
            )
        for epsilon in (total, per_run):
            try:
                _ = epsilon is None or renyi_filter(epsilon, privacy.delta)
            except PrivacyError:
                raise InputError(
                    f"no round fits into epsilon {epsilon:g} at delta {privacy.delta:g}",
                    where=where,
                    right="grant a larger epsilon, or a larger delta",
                ) from None


def _readable(error: ValidationError, where: str) -> InputError:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        clause = Policy if len(path) == 1 else type(Policy.model_fields[path[0]].get_default())
        return InputError(f"unknown key {shown(key)}", where=where, right=suggestion(path[-1], clause.model_fields))
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return InputError(f"{shown(key)} is not usable", where=where, right=message)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ")

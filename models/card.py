"""A model's card: the `README.md` that people read before they use it, with a YAML header for model hubs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tacit.models.errors import InputError
from tacit.models.zoo.architecture import Architecture


def model_card(
    *,
    name: str,
    task_kind: str,
    architecture: Architecture,
    parameters: int,
    privacy_sentence: str,
    metrics: Mapping[str, float],
    intended_use: str = "",
    data: str = "",
    limits: Sequence[str] = (),
    license: str = "",
    federated: Mapping[str, Any] | None = None,
    privacy: Mapping[str, Any] | None = None,
) -> str:
    """Return the card as Markdown behind a YAML header; it claims nothing that is not passed in.

    Args:
        name: the model's name.
        task_kind: the task's name.
        architecture: the network.
        parameters: how many numbers the model has.
        privacy_sentence: what is promised, in plain language, or that nothing is.
        metrics: test metrics by name; undefined ones (NaN) are shown as such.
        intended_use: what it is for.
        data: what it was trained on.
        limits: what it must not be used for, and where it is weak.
        license: an SPDX identifier, or empty if nobody chose one.
        federated: how it was trained, for the header: plain values, lists and tables.
        privacy: the promise in numbers, for the header.

    Raises:
        InputError: a header value is not plain (text, number, truth value, none, list or table).
    """
    header: dict[str, Any] = {}
    if license:
        header["license"] = license
    header |= {
        "library_name": "tacit",
        "pipeline_tag": task_kind,
        "tags": ["federated-learning", "tacit"],
        "metrics": sorted(metrics),
        "federated": dict(federated or {}),
        "privacy": dict(privacy or {}),
    }
    kind = f"a user's own, `{architecture.factory}`" if architecture.factory else f"`{architecture.name}`"
    shape = " x ".join(str(length) for length in architecture.input_shape)
    sections = {
        "Intended use": intended_use or "None was stated.",
        "Model": (
            f"Task `{task_kind}`; architecture {kind}, from {shape} inputs to {architecture.outputs} outputs, with "
            f"{parameters:,} parameters. The preprocessing is part of the model: it takes raw rows."
        ),
        "Data": data or "Nothing was stated about the data.",
        "Metrics": _table(metrics) if metrics else "None were measured.",
        "Privacy": privacy_sentence,
        "Limits": "\n".join(f"- {limit}" for limit in limits)
        or "None were stated, which does not mean there are none.",
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"---\n{_yaml(header)}---\n\n# {' '.join(name.split())}\n\n{body}\n"


def _table(metrics: Mapping[str, float]) -> str:
    rows = (
        f"| {name} | {value:.4g} |" if math.isfinite(value) else f"| {name} | undefined |"
        for name, value in metrics.items()
    )
    return "\n".join(("| metric | value |", "|---|---|", *rows))


def _yaml(table: Mapping[str, Any], indent: str = "") -> str:
    """Return a table as YAML in block style: the small part of the language that a header needs."""
    lines: list[str] = []
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{_scalar(key)}:\n{_yaml(value, indent + '  ')}")
        elif isinstance(value, list | tuple) and value:
            items = "".join(f"{indent}- {_scalar(item)}\n" for item in value)
            lines.append(f"{indent}{_scalar(key)}:\n{items}")
        else:
            lines.append(f"{indent}{_scalar(key)}: {_scalar(value)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, Mapping) and not value:
        return "{}"
    if isinstance(value, list | tuple) and not value:
        return "[]"
    if isinstance(value, str):
        if value.replace("_", "a").replace("-", "a").isalnum() and value.isascii() and value[0].isalpha():
            reserved = value.lower() in ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
            return f'"{value}"' if reserved else value
        escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value)
        return f'"{escaped}"'
    if isinstance(value, float):
        if not math.isfinite(value):
            return "null"
        text = repr(value)
        # YAML 1.1 reads 1e-05 as text and 1.0e-05 as a number.
        return text if "." in text else text.replace("e", ".0e")
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    raise InputError(f"a value of type {type(value).__name__} is not plain", where="card header")

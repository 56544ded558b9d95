"""The documents are true: what they list is what there is, what they link to exists, what they show runs."""

import dataclasses
import importlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import pytest
import tomli_w
from fastapi.routing import APIRoute
from pydantic import BaseModel

from tacit.__main__ import COMMANDS, cli
from tacit.client.asked import CODES
from tacit.client.policy import Policy
from tacit.client.settings import Settings as AgentSettings
from tacit.models.data.sources import CONNECTORS
from tacit.models.errors import InputError
from tacit.models.recipe import Recipe, recipe_from_dict
from tacit.models.sections import ModelSection, StrategySection
from tacit.models.zoo.catalogue import NAMES as MODELS
from tacit.models.zoo.catalogue import check_options
from tacit.server.serving import api, health, oip, pages
from tacit.server.strategies import strategy_named
from tacit.simulations import simulate
from tacit.simulations.recipes import BUNDLED

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted(
    path
    for folder in ("client", "docs", "models", "privacy", "server", "simulations", "src")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".css", ".html", ".js", ".mako", ".md", ".py", ".toml"} and not path.is_symlink()
)
OTHERS = [ROOT / name for name in ("CHANGELOG.md", "Makefile", "README.md", "constraints.txt", "pyproject.toml")]


def ids(path: object) -> str:
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else str(path)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield each heading, without its marks, and the text up to the next one."""
    parts = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)
    yield from zip(parts[1::2], parts[2::2], strict=True)


def rows(section: str) -> list[list[str]]:
    """Return the cells of all table rows whose first cell is code; `\\|` is a bar within a cell."""
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def first_code(cell: str) -> str:
    found = re.match(r"`([^`]*)`", cell)
    assert found, cell
    return found[1]


def test_every_setting_of_an_agent_is_documented_with_its_default() -> None:
    (section,) = (text for title, text in sections(text_of("docs/commands.md")) if title == "An agent's settings")
    documented = {first_code(cells[0]): cells[1] for cells in rows(section)}
    assert list(documented) == list(AgentSettings.model_fields)
    for key, field in list(AgentSettings.model_fields.items())[1:]:
        assert documented[key] == f"`{json.dumps(field.get_default())}`"


# Recipe keys


def toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def recipe_sections() -> dict[str, type[BaseModel]]:
    nested = {
        name: field.annotation
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    return {"": Recipe, **nested}


def documented_keys() -> dict[tuple[str, str], list[str]]:
    """Return the row of each documented key by section and name."""
    found = {}
    for heading, body in sections(text_of("docs/recipe.md")):
        section = "" if heading == "Top level" else heading.strip("`[]") if heading.startswith("`[") else None
        if section is None:
            continue
        for row in rows(body):
            if len(row) == 4:
                found[section, first_code(row[0])] = row
    return found


def test_every_recipe_key_is_documented_with_its_default_and_nothing_else_is() -> None:
    documented = documented_keys()
    expected = {}
    for section, model in recipe_sections().items():
        for name, field in model.model_fields.items():
            if name in recipe_sections():
                continue
            required = field.is_required()
            expected[section, name] = (
                "required" if required else "" if field.default is None else f"`{toml_value(field.default)}`"
            )
    assert {key: row[2] for key, row in documented.items()} == expected


def literals(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for argument in get_args(annotation) for value in literals(argument)]


def candidates(section: str, name: str, annotation: Any) -> list[Any]:
    """Return the values to try: all that are listed, and a number where numbers are taken."""
    values = literals(annotation)
    return values or ([1] if int in get_args(annotation) else [0.5] if float in get_args(annotation) else [])


BASES: tuple[Mapping[str, Mapping[str, Any]], ...] = (
    {},
    {"privacy": {"unit": "client", "epsilon": 8.0}},
    {"privacy": {"unit": "client"}},
    {"privacy": {"epsilon": 8.0}},
)


def is_unbuilt(section: str, name: str, value: Any) -> bool:
    """Tell whether a value is refused because its feature is not built, in whatever company."""
    for base in BASES:
        values: dict[str, Any] = {
            "name": "x",
            "task": {"kind": "tabular-classification"},
            "data": {"source": "sklearn:wine"},
            "population": {"clients": 6},
        }
        for key, more in base.items():
            values[key] = {**values.get(key, {}), **more}
        values[section] = {**values.get(section, {}), name: value}
        try:
            recipe_from_dict(values)
        except InputError as error:
            if "this version does not have" in str(error):
                return True
    return False


def test_exactly_what_is_not_built_is_documented_as_refused() -> None:
    documented = documented_keys()
    for section, model in recipe_sections().items():
        for name, field in model.model_fields.items():
            if not section or name in recipe_sections():
                continue
            tried = candidates(section, name, field.annotation)
            unbuilt = {f"`{toml_value(value)}`" for value in tried if is_unbuilt(section, name, value)}
            _, _, promised = documented[section, name][3].partition("Not built yet, refused:")
            assert set(re.findall(r"`[^`]*`", promised)) == unbuilt, f"{section}.{name}"


def test_every_option_of_every_architecture_is_documented_with_its_default() -> None:
    bodies = {heading.strip("`"): body for heading, body in sections(text_of("docs/recipe.md"))}
    for name in MODELS:
        fields = type(check_options(name, {})).model_fields
        documented = {first_code(row[0]): row[2] for row in rows(bodies[name])}
        assert documented == {option: f"`{toml_value(field.default)}`" for option, field in fields.items()}
    assert ModelSection.model_fields["name"].default in MODELS


def test_every_strategy_is_documented_with_its_options_and_a_paper() -> None:
    body = dict(sections(text_of("docs/recipe.md")))["`[strategy]`"]
    table = {first_code(row[0]): row for row in rows(body) if len(row) == 3}
    papers = 0
    for name, (_, options, paper) in table.items():
        strategy = strategy_named(name, {})
        assert dataclasses.is_dataclass(strategy)
        given = {key: float(value) for key, value in re.findall(r"`(\w+) = ([0-9.]+)`", options)}
        assert given == {field.name: field.default for field in dataclasses.fields(strategy)}
        papers += bool(re.search(r"\b20\d\d$", paper))
        # Each option is also a key that the recipe knows.
        assert given.keys() <= StrategySection.model_fields.keys()
    with pytest.raises(InputError, match="unknown strategy .* known are"):
        strategy_named("no such strategy", {})
    modules = {path.stem for path in (ROOT / "server/strategies").glob("fed*.py")}
    assert table.keys() == modules
    assert papers == len({paper for _, _, paper in table.values()} - {"the same"})


def test_every_bundled_recipe_is_documented() -> None:
    bundled = {entry.name.removesuffix(".toml") for entry in BUNDLED.iterdir() if entry.name.endswith(".toml")}
    introduction = text_of("docs/recipe.md").partition("\n## ")[0]
    assert {first_code(row[0]) for row in rows(introduction)} == bundled


# Policies


def test_every_key_of_a_policy_is_documented_with_its_default_and_nothing_else_is() -> None:
    documented = {}
    for heading, body in sections(text_of("docs/privacy.md")):
        if table := re.fullmatch(r"`\[(\w+)\]`", heading):
            documented |= {(table[1], first_code(row[0])): row[1] for row in rows(body)}
    expected = {}
    for table, key in Policy.model_fields.items():
        for name, field in type(key.get_default()).model_fields.items():
            default = field.get_default()
            expected[table, name] = "" if default in (None, {}) else f"`{json.dumps(default)}`"
    assert documented == expected


def test_every_code_of_a_refusal_is_documented_in_its_own_words() -> None:
    refusals = dict(sections(text_of("docs/privacy.md")))["Refusals"]
    assert {first_code(row[0]): row[1] for row in rows(refusals)} == CODES


# Commands


def walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from walk(child, f"{path} {name}")


ALL_COMMANDS = dict(walk(cli, "tacit"))


def test_every_command_and_no_other_is_documented() -> None:
    headings = {heading.strip("`") for heading, _ in sections(text_of("docs/commands.md")) if heading.startswith("`")}
    assert headings == ALL_COMMANDS.keys() - {"tacit"}
    introduction = text_of("docs/commands.md").partition("\n## ")[0]
    assert re.findall(r"^\| \[`tacit (\w+)`\]", introduction, flags=re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("path", sorted(ALL_COMMANDS.keys() - {"tacit"}))
def test_every_option_of_a_command_and_no_other_is_documented(path: str) -> None:
    body = dict(sections(text_of("docs/commands.md")))[f"`{path}`"]
    options = [one for one in ALL_COMMANDS[path].params if isinstance(one, click.Option)]
    expected = {max(option.opts, key=len) for option in options if "--help" not in option.opts}
    table = {first_code(row[0]): row[1] for row in rows(body) if first_code(row[0]).startswith("--")}
    assert {name.split()[0] for name in table} == expected
    for option in options:
        shown = next((name for name in table if name.split()[0] in option.opts), "")
        if isinstance(option.type, click.Choice) and "|" in shown:
            assert shown.split()[1] == "|".join(option.type.choices)
        elif isinstance(option.type, click.Choice):
            assert set(option.type.choices) <= set(re.findall(r"`(\w+)`", table[shown]))


@pytest.mark.parametrize("path", sorted(ALL_COMMANDS))
def test_the_help_of_a_command_shows_an_example(path: str) -> None:
    command = ALL_COMMANDS[path]
    if not isinstance(command, click.Group) or path in ("tacit", "tacit serve"):
        assert re.search(r"Example: tacit \w", command.help or ""), path


# Data sources


def known_options(scheme: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the options that a connector checks for, whatever the location."""
    connector = CONNECTORS[scheme]
    module = importlib.import_module(connector.__module__)
    seen: set[str] = set()

    def note(scheme: str, options: Mapping[str, str], known: Any) -> None:
        seen.update(known)
        raise InputError("noted")

    monkeypatch.setattr(module, "check_options", note)
    for location in ("classification", "images", "regression", "wine"):
        with pytest.raises(InputError):
            connector(location, {}, task="tabular-classification", label="label")
    return seen


@pytest.mark.parametrize("scheme", sorted(CONNECTORS))
def test_every_option_of_a_connector_and_no_other_is_documented(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = dict(sections(text_of("docs/data.md")))[f"`{scheme}:`"]
    documented = {first_code(row[0]) for row in rows(body)}
    assert documented == {f"{option}=" for option in known_options(scheme, monkeypatch)}


def test_every_scheme_is_documented() -> None:
    introduction = text_of("docs/data.md").partition("\n## ")[0]
    assert set(re.findall(r"^\| \[`(\w+):`\]", introduction, flags=re.MULTILINE)) == CONNECTORS.keys()


# Figures for monitoring

COUNTED = ("tacit_participations", *(f"tacit_fleet_{what}" for what in ("requests", "received_bytes", "sent_bytes")))


def test_every_figure_and_no_other_is_documented() -> None:
    table = rows(dict(sections(text_of("docs/federation.md")))["Monitoring"])
    documented = {name for row in table for name in re.findall(r"`((?:tacit|process)_\w+)", row[0])}
    source = text_of("server/metrics.py")
    names = set(re.findall(r'"(tacit_\w+)"', source))
    endings = {"tacit_round_seconds": ("_count", "_sum")} | dict.fromkeys(COUNTED, ("_total",))
    expected = {name + ending for name in names for ending in endings.get(name, ("",))}
    assert {name for name in documented if name.startswith("tacit_")} == expected


# Routes


def test_every_route_and_no_other_is_documented() -> None:
    served = {("GET", "/openapi.json")}
    for module in (api, health, oip, pages):
        for route in module.router.routes:
            assert isinstance(route, APIRoute)
            served |= {(method, route.path) for method in route.methods}
    routes = dict(sections(text_of("docs/serving.md")))["Routes"]
    documented = {tuple(first_code(row[0]).split()) for row in rows(routes)}
    assert documented == served


# Run directories


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from flat(item, f"{prefix}{key}.")
        else:
            yield prefix + key


def matches(name: str, patterns: set[str]) -> bool:
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) for pattern in patterns)


@pytest.mark.parametrize("setting", ["privacy.unit=none", "privacy.epsilon=8"])
def test_every_file_and_field_of_a_run_is_documented(setting: str, tmp_path: Path) -> None:
    settings = ["training.rounds=2", setting, *(["privacy.unit=client"] if "epsilon" in setting else [])]
    finished = simulate("wine", settings, out=tmp_path / "run", db=str(tmp_path / "db"), models=tmp_path / "models")
    parts = dict(sections(text_of("docs/run-directory.md")))
    files = {first_code(row[0]) for row in rows(parts["The run directory"])}
    found = {
        path.relative_to(finished.directory).as_posix() for path in finished.directory.rglob("*") if path.is_file()
    }
    assert {name for name in found if not matches(name, files)} == set()
    assert {pattern for pattern in files if not any(matches(name, {pattern}) for name in found)} == set()

    fields = {first_code(row[0]) for row in rows(parts["`summary.json`"])}
    fields |= set(re.findall(r"`(privacy\.\w+)`", parts["`summary.json`"]))
    written = set(flat(json.loads((finished.directory / "summary.json").read_text())))
    assert {name for name in written if not matches(name, fields) and not matches(f"{name}.", fields)} == set()
    if setting == "privacy.epsilon=8":
        assert {pattern for pattern in fields if not any(matches(name, {pattern}) for name in written)} == set()


# Links, paths, hosts


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, made as code hosts make them."""
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading, _ in sections(without_code(text)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text(encoding="utf-8"))):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        destination = (document.parent / path).resolve() if path else document
        assert destination.exists(), target
        assert destination.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(destination.read_text(encoding="utf-8")), target


def test_every_picture_is_shown_described_and_small() -> None:
    shown = {
        (document.parent / target).resolve(): alternative
        for document in DOCUMENTS
        for alternative, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", document.read_text(encoding="utf-8"))
    }
    assert set(shown) == set((ROOT / "docs/images").iterdir())
    for path, alternative in shown.items():
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 300_000
        assert len(alternative) > 20


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), flags=re.MULTILINE))
    for document in DOCUMENTS:
        for block in re.findall(r"`([^`]+)`", document.read_text(encoding="utf-8")):
            if block.startswith("make "):
                named = [word for word in block.split()[1:] if "=" not in word]
                assert set(named) <= targets, block


def test_every_extra_is_documented() -> None:
    readme = dict(sections(text_of("README.md")))["Installing parts"]
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    extras = {f"tacit[{name}]" for name in project["optional-dependencies"]}
    assert {first_code(row[0]) for row in rows(readme)} == extras


MACHINE = re.compile(
    r"(?<![\w.~$}/-])/(?:home|root|mnt|Users|workspace)/|(?<![\w.~$}/-])/(?:tmp|work)/(?!\*)"
    r"|pythonhosted|pypi\.org|download\.pytorch|artifactory|/simple\b|index-url\s+http"
)


@pytest.mark.parametrize("path", [*SOURCES, *OTHERS, ROOT / ".ci/run"], ids=ids)
def test_no_file_names_a_path_of_a_machine_or_the_host_of_a_registry(path: Path) -> None:
    found = MACHINE.search(path.read_text(encoding="utf-8"))
    assert found is None, found


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_a_document_is_wrapped_and_ends_with_a_line(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert text.endswith("\n") and not text.endswith("\n\n")
    long = [line for line in without_code(text).splitlines() if len(line) > 132 and not line.startswith(("|", "!["))]
    assert long == []

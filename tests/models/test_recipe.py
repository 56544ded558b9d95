"""A recipe says exactly what it says: nothing is ignored, and whatever is wrong is named in one line."""

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tacit.models.errors import InputError
from tacit.models.recipe import Recipe, load_recipe, parse_recipe, recipe_from_dict

SMALLEST = """
name = "small"
[task]
kind = "tabular-classification"
[data]
source = "csv:a.csv"
[population]
clients = 10
"""

# product.md's example, without the keys whose feature comes later.
FULL = """
name = "fashion"
seed = 7
[task]
kind = "image-classification"
[data]
source = "idx:${TACIT_DATA}/fashion-mnist"
test = "split"
label = "label"
[population]
clients = 100
partition = "dirichlet"
alpha = 0.5
column = ""
[model]
name = "cnn"
[training]
rounds = 50
cohort = 20
local_epochs = 1
batch_size = 32
optimizer = "sgd"
learning_rate = 0.05
sampling = "fixed"
device = "auto"
engine = "auto"
deadline_seconds = 600
quorum = 0.8
[strategy]
weighting = "auto"
name = "fedavg"
[evaluation]
every = 1
validation = 0.1
patience = 0
"""


def smallest(*overrides: str) -> Recipe:
    return parse_recipe(SMALLEST, overrides)


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_recipe(text, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What is taken


def test_the_smallest_recipe_has_the_documented_defaults() -> None:
    recipe = smallest()
    assert (recipe.seed, recipe.model.name, recipe.strategy.name) == (0, "logistic", "fedavg")
    assert (recipe.training.quorum, recipe.training.deadline_seconds, recipe.training.sampling) == (0.8, 600, "fixed")
    assert (recipe.evaluation.validation, recipe.evaluation.patience) == (0.1, 0)
    assert (recipe.privacy.unit, recipe.privacy.epsilon) == ("none", None)


def test_the_documented_example_is_taken_as_it_stands() -> None:
    recipe = parse_recipe(FULL)
    assert (recipe.population.clients, recipe.population.alpha, recipe.training.cohort) == (100, 0.5, 20)
    assert recipe.data.source == "idx:${TACIT_DATA}/fashion-mnist"


def test_options_of_an_architecture_stand_beside_its_name() -> None:
    recipe = parse_recipe(SMALLEST + '[model]\nname = "mlp"\nhidden = [64, 32]\n[model.more]\ndeep = true\n')
    assert recipe.model.options == {"hidden": [64, 32], "more": {"deep": True}}


def test_whole_numbers_serve_where_a_fraction_is_asked_for() -> None:
    recipe = smallest("training.learning_rate=1", "training.deadline_seconds=60")
    assert (recipe.training.learning_rate, type(recipe.training.learning_rate)) == (1.0, float)


def test_a_recipe_does_not_change_after_it_was_read() -> None:
    recipe = smallest()
    with pytest.raises(ValueError, match="frozen"):
        recipe.training.rounds = 3  # type: ignore[misc]


def test_reading_a_recipe_loads_neither_torch_nor_flower() -> None:
    code = (
        "import sys, tacit.models.recipe as r; r.parse_recipe(sys.argv[1])\nprint({'torch', 'flwr'} & {*sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", code, SMALLEST], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# Round trips

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=12)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
PLAIN = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
OPTION_NAMES = st.from_regex(r"o_[a-z]{1,6}", fullmatch=True)


def some(**values: st.SearchStrategy) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    clients = draw(st.integers(1, 10**6))
    positive = st.floats(1e-9, 1e6)
    fraction = st.floats(0, 0.99)
    training = draw(
        some(
            rounds=st.integers(1, 10**6),
            cohort=st.integers(1, clients),
            local_epochs=st.integers(1, 99),
            local_steps=st.integers(1, 99),
            batch_size=st.integers(1, 4096),
            learning_rate=positive,
            momentum=fraction,
            weight_decay=positive,
            device=st.sampled_from(["auto", "cpu", "cuda", "cuda:3", "mps"]),
            deadline_seconds=positive,
            quorum=st.floats(0.01, 1),
        )
    )
    masked = draw(st.booleans())
    training |= draw(some(over_selection=fraction))
    return {
        "name": draw(NAMES),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "task": {"kind": draw(TEXT)},
        "data": {"source": draw(TEXT)} | draw(some(test=TEXT, label=TEXT, minimum_count=st.integers(1, 99))),
        "population": {"clients": clients}
        | draw(some(partition=st.sampled_from(["iid", "dirichlet", "shards"]), alpha=positive, column=TEXT)),
        "model": draw(some(name=TEXT, init=TEXT)) | draw(st.dictionaries(OPTION_NAMES, PLAIN, max_size=3)),
        "training": training,
        "secure_aggregation": {"enabled": masked},
        "strategy": draw(some(name=TEXT, beta_1=fraction, tau=positive, server_learning_rate=positive)),
        "evaluation": draw(some(every=st.integers(1, 9), validation=st.floats(0.01, 0.9), patience=st.integers(0, 9))),
    }


@given(recipes())
def test_what_is_written_as_toml_reads_back_as_the_same_recipe(values: dict[str, Any]) -> None:
    recipe = recipe_from_dict(values)
    again = parse_recipe(recipe.to_toml())
    assert again == recipe
    assert again.digest == recipe.digest
    assert again.to_toml() == recipe.to_toml()


@given(recipes())
def test_what_is_written_as_json_reads_back_as_the_same_recipe(values: dict[str, Any]) -> None:
    recipe = recipe_from_dict(values)
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_digest_is_that_of_the_meaning_and_not_of_the_spelling() -> None:
    respelled = SMALLEST.replace('name = "small"', "# a comment\nseed = 0\nname = 'small'").replace("10", "1_0")
    assert parse_recipe(respelled).digest == smallest().digest
    assert smallest("training.learning_rate=1").digest == smallest("training.learning_rate=1.0").digest


def test_the_digest_is_the_sha256_of_the_canonical_json() -> None:
    recipe = smallest()
    text = json.dumps(recipe.to_dict(), sort_keys=True, separators=(",", ":"))
    assert recipe.digest == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("key", ["seed=1", "training.rounds=21", "model.depth=3", "data.label=other"])
def test_any_other_value_is_another_digest(key: str) -> None:
    assert smallest(key).digest != smallest().digest


# What is refused


def test_an_unknown_key_names_the_nearest() -> None:
    assert refusal(SMALLEST, "training.learnig_rate=0.1") == (
        "recipe: unknown key 'training.learnig_rate'; the nearest is 'learning_rate'"
    )
    assert refusal(SMALLEST, "populaton.clients=3").endswith("unknown key 'populaton'; the nearest is 'population'")
    assert refusal(SMALLEST + "[evaluation]\never = 1").endswith("'evaluation.ever'; the nearest is 'every'")


def test_an_unknown_key_of_any_length_is_one_line() -> None:
    assert len(refusal("x" * 100_000 + " = 1\n" + SMALLEST)) < 200_000
    assert "'a\\nb'" in refusal('"a\\nb" = 1\n' + SMALLEST)


def leaves(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        inner = isinstance(kind, type) and issubclass(kind, BaseModel)
        found += leaves(kind, f"{prefix}{name}.") if inner else [prefix + name]  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("key", leaves(Recipe))
def test_every_key_refuses_a_value_of_the_wrong_type_and_names_itself(key: str) -> None:
    message = refusal(SMALLEST, f"{key}=2026-01-02")
    assert key in message


WRONG = [
    ("training.learning_rate=-0.1", "training.learning_rate is not usable; input should be greater than 0"),
    ("training.learning_rate=0", "greater than 0"),
    ("training.learning_rate=nan", "training.learning_rate is not usable; input should be a finite number"),
    ("training.learning_rate=inf", "finite number"),
    ("training.learning_rate='fast'", "training.learning_rate is not usable; input should be a valid number"),
    ("training.rounds=0", "training.rounds is not usable; input should be greater than or equal to 1"),
    ("training.rounds=1.5", "valid integer"),
    ("training.rounds=true", "valid integer"),
    ("training.quorum=0", "training.quorum"),
    ("training.quorum=1.01", "training.quorum"),
    ("training.momentum=1", "training.momentum"),
    ("training.optimizer='sdg'", "input should be 'sgd', 'adam' or 'adamw'"),
    ("training.device='gpu'", "training.device"),
    ("training.device='cuda:'", "training.device"),
    ("training.device='cpu:0'", "training.device"),
    ("training.deadline_seconds=1e9", "training.deadline_seconds"),
    ("training.batch_size=0", "training.batch_size"),
    ("seed=-1", "seed is not usable"),
    ("seed=9223372036854775808", "seed is not usable"),
    ("name=''", "name is not usable"),
    ("name='../escape'", "name is not usable"),
    ("name='-rf'", "name is not usable"),
    ('name="a\\n"', "name is not usable"),
    ("population.clients=0", "population.clients"),
    ("population.alpha=0", "population.alpha"),
    ("population.partition='random'", "population.partition"),
    ("data.test_share=1", "data.test_share"),
    ("evaluation.validation=1", "evaluation.validation"),
    ("evaluation.every=0", "evaluation.every"),
    ("task='x'", "task is not usable"),
    ("training=[1]", "training is not usable"),
]


@pytest.mark.parametrize(("override", "expected"), WRONG, ids=[override for override, _ in WRONG])
def test_a_value_out_of_its_range_is_refused_with_the_range(override: str, expected: str) -> None:
    assert expected in refusal(SMALLEST, override)


TOGETHER = [
    (["training.cohort=11"], "training.cohort = 11 is more than population.clients = 10; ask for at most as many"),
    (["population.partition=by-column"], "population.column is empty; by-column needs the column's name"),
    (["training.optimizer=adam", "training.momentum=0.9"], "training.momentum: adam has none; leave it out"),
    (
        ["training.sampling=poisson", "training.over_selection=0.5"],
        "training.over_selection means nothing to a poisson",
    ),
    (["evaluation.patience=3", "evaluation.validation=0"], "evaluation.patience needs a validation share"),
    (["model.factory=package.module"], 'model.factory is not usable; write "package.module:function"'),
    (["model.width=nan"], "an option in [model] is a date or not a finite number"),
    (["model.widths=[1.0, inf]"], "an option in [model] is a date or not a finite number"),
    (["model.since=2026-01-01"], "an option in [model] is a date or not a finite number"),
]


@pytest.mark.parametrize(("overrides", "expected"), TOGETHER)
def test_values_that_do_not_go_together_are_refused_with_the_one_to_change(overrides: list[str], expected: str) -> None:
    assert expected in refusal(SMALLEST, *overrides)


def test_a_cohort_of_everybody_is_taken() -> None:
    assert smallest("training.cohort=10").training.cohort == 10


@pytest.mark.parametrize("key", ["name", "task", "data", "task.kind", "data.source", "population.clients"])
def test_a_missing_key_is_named(key: str) -> None:
    values = tomllib.loads(SMALLEST)
    *sections, last = key.split(".")
    table = values
    for section in sections:
        table = table[section]
    del table[last]
    with pytest.raises(InputError, match=f"the key '{key}' is missing"):
        recipe_from_dict(values)


@pytest.mark.parametrize("partition", ["by-file", "by-column"])
def test_data_that_comes_divided_needs_no_number_of_clients(partition: str) -> None:
    text = SMALLEST.replace("clients = 10", f'partition = "{partition}"\ncolumn = "workclass"')
    assert parse_recipe(text).population.clients is None


CLIENT_LEVEL = '[privacy]\nunit = "client"\nepsilon = 8.0\n'
CENTRAL = CLIENT_LEVEL + 'noise = "central"\nepsilon_against = "outsiders"\n'
EXAMPLE_LEVEL = '[training]\nlocal_steps = 5\n[privacy]\nunit = "example"\nepsilon = 8.0\nsample_rate = 0.1\n'
PROMISES = {
    "[privacy]\nepsilon = 8.0": "privacy.epsilon means nothing without a unit",
    '[privacy]\nunit = "client"': "privacy needs either epsilon or noise_multiplier",
    CLIENT_LEVEL + "noise_multiplier = 1.0": "privacy needs either epsilon or noise_multiplier",
    CLIENT_LEVEL + "[secure_aggregation]\nenabled = false": "distributed noise protects only within a masked sum",
    CLIENT_LEVEL + '[strategy]\nweighting = "examples"': "would show how many examples a client has",
    CLIENT_LEVEL + 'noise = "central"': "central noise is worth nothing against the coordinator",
    CLIENT_LEVEL + 'noise = "local"\nnoise_cohort = 1000': "means nothing to local noise",
    CLIENT_LEVEL + 'max_participations = 3\n[training]\nsampling = "poisson"': "which may draw anyone in any round",
    CLIENT_LEVEL + "sample_rate = 0.1": "privacy.sample_rate is for unit 'example'",
    CLIENT_LEVEL
    + 'noise = "local"\nclip = "adaptive"\n[secure_aggregation]\nenabled = false': "whether it was clipped",
    CENTRAL + "noise_cohort = 50\n[secure_aggregation]\nenabled = false": "privacy.noise_cohort is for masked sums",
    EXAMPLE_LEVEL + 'noise = "distributed"': "distributed noise cannot protect one example",
    EXAMPLE_LEVEL + 'noise = "central"': "central noise cannot protect one example",
    EXAMPLE_LEVEL + 'clip = "adaptive"': "privacy.clip = 'adaptive' is for unit 'client'",
    EXAMPLE_LEVEL.replace("[training]", '[training]\nsampling = "poisson"') + "max_participations = 3": (
        "which may draw anyone in any round"
    ),
    EXAMPLE_LEVEL + "noise_cohort = 1000": "privacy.noise_cohort is for unit 'client'",
    '[privacy]\nunit = "example"\nepsilon = 8.0': "needs privacy.sample_rate",
    '[privacy]\nunit = "example"\nepsilon = 8.0\nsample_rate = 0.1': "needs training.local_steps",
    EXAMPLE_LEVEL + '[strategy]\nname = "fedprox"': "pulls every step",
}


@pytest.mark.parametrize(("text", "expected"), PROMISES.items())
def test_a_promise_that_contradicts_itself_is_refused(text: str, expected: str) -> None:
    assert expected in refusal(SMALLEST + text)


def test_a_client_level_promise_is_taken() -> None:
    assert parse_recipe(SMALLEST + CLIENT_LEVEL).privacy.epsilon == 8.0


KEPT_PROMISES = [
    EXAMPLE_LEVEL,
    EXAMPLE_LEVEL + "[secure_aggregation]\nenabled = false",
    CLIENT_LEVEL + 'noise = "local"\n[secure_aggregation]\nenabled = false',
    CLIENT_LEVEL + 'clip = "adaptive"',
    CLIENT_LEVEL + "noise_cohort = 1000",
    CLIENT_LEVEL + 'noise = "central"\nepsilon_against = "outsiders"',
    CLIENT_LEVEL + '[training]\nsampling = "poisson"',
]


def test_a_budget_without_a_promise_is_refused() -> None:
    assert "means nothing without a promise" in refusal(SMALLEST, "population.epsilon_budget=8.0")


@pytest.mark.parametrize("text", KEPT_PROMISES)
def test_every_promise_that_can_be_kept_is_taken(text: str) -> None:
    assert parse_recipe(SMALLEST + text).privacy.epsilon == 8.0


@pytest.mark.parametrize("setting", ["training.engine=vectorised", "strategy.weighting=clipped"])
def test_a_choice_that_is_not_built_is_refused(setting: str) -> None:
    assert f"{setting.partition('=')[0]} asks for a feature" in refusal(SMALLEST, setting)


def test_no_privacy_may_be_said_aloud() -> None:
    assert parse_recipe(SMALLEST + '[privacy]\nunit = "none"').privacy.unit == "none"


# Files


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing.toml: cannot be read \(No such file or directory\)"):
        load_recipe(tmp_path / "missing.toml")


def test_a_directory_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        load_recipe(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match="recipe.toml: is not UTF-8 text; a recipe is a TOML file"):
        load_recipe(path)


BROKEN = {
    "no TOML": ("name: small", "is not valid TOML: .*line 1"),
    "a key twice": ('name = "a"\nname = "b"', "is not valid TOML"),
    "an open string": ('name = "a', "is not valid TOML"),
    "a number of thousands of digits": ("seed = " + "9" * 5000, "is not usable TOML"),
    "brackets without end": ("a = " + "[" * 20_000, "is .*TOML"),
}


@pytest.mark.parametrize(("text", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_toml_is_refused_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"recipe.toml: {expected}") as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SMALLEST + "[training]\nrounds = 0")
    with pytest.raises(InputError, match="mine.toml: training.rounds is not usable"):
        load_recipe(path)


@given(st.text(max_size=200))
def test_any_text_is_a_recipe_or_an_input_error(text: str) -> None:
    try:
        parse_recipe(text)
    except InputError as error:
        assert len(str(error).splitlines()) == 1


# Overrides


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.rounds=3", "training", "rounds", 3),
        (" training.rounds = 3 ", "training", "rounds", 3),
        ("training.learning_rate=1e-3", "training", "learning_rate", 1e-3),
        ("model.name=cnn", "model", "name", "cnn"),
        ('model.name="cnn"', "model", "name", "cnn"),
        ("model.name='cnn'", "model", "name", "cnn"),
        ("model.name = cnn ", "model", "name", "cnn"),
        ("data.source=csv:a.csv?sep=;&na=x", "data", "source", "csv:a.csv?sep=;&na=x"),
        ("data.source=csv:a=b", "data", "source", "csv:a=b"),
        ("data.label=", "data", "label", ""),
        ("data.label=two\nlines", "data", "label", "two\nlines"),
        ("data.label='x'\nseed=3", "data", "label", "'x'\nseed=3"),
        ("model.factory=package.module:function", "model", "factory", "package.module:function"),
        ("data.label=[", "data", "label", "["),
    ],
)
def test_a_setting_is_toml_or_else_text(override: str, section: str, key: str, value: Any) -> None:
    assert getattr(getattr(smallest(override), section), key) == value


def test_a_setting_wins_over_the_file_and_the_last_one_over_the_others() -> None:
    text = SMALLEST + "[training]\nrounds = 5"
    assert parse_recipe(text, ["training.rounds=6", "training.rounds=7"]).training.rounds == 7


def test_a_setting_may_open_a_section_and_set_an_option_of_the_model() -> None:
    recipe = smallest("strategy.name=fedadam", "strategy.beta_1=0.5", "model.name=mlp", "model.hidden=[8, 8]")
    assert recipe.strategy.options == {"beta_1": 0.5}
    assert recipe.model.options == {"hidden": [8, 8]}


def test_settings_leave_the_recipe_that_they_were_given_with_alone() -> None:
    values = tomllib.loads(SMALLEST)
    before = json.dumps(values)
    parse_recipe(SMALLEST, ["population.clients=3"])
    assert json.dumps(values) == before


@pytest.mark.parametrize("override", ["", "training.rounds", "=3", " = 3"])
def test_a_setting_without_key_or_value_is_refused(override: str) -> None:
    assert refusal(SMALLEST, override).endswith("sets nothing; write --set section.key=value")


@pytest.mark.parametrize("override", ["name.first=x", "data.source.more=1"])
def test_a_setting_below_a_value_is_refused(override: str) -> None:
    assert "is a value, not a section" in refusal(SMALLEST, override)


@pytest.mark.parametrize("override", ["a..b=1", ".rounds=1", "training.=1", "training..rounds=1"])
def test_a_setting_with_an_empty_part_is_an_unknown_key(override: str) -> None:
    assert "unknown key" in refusal(SMALLEST, override)


ONLY = ("evaluation.only=true", "model.init=registry:m@champion")
PROMISED = (*ONLY, "privacy.unit=client", "privacy.epsilon=8")


def test_an_evaluation_is_one_round_whether_its_recipe_says_so_or_not() -> None:
    recipe = parse_recipe(SMALLEST, ONLY)
    assert recipe.training.rounds == 1
    assert parse_recipe(recipe.to_toml()) == recipe == parse_recipe(SMALLEST, [*ONLY, "training.rounds=1"])
    assert smallest().training.rounds == 20


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (ONLY[:1], "evaluation.only needs model.init, which names the model to evaluate"),
        ((*ONLY, "training.rounds=20"), "training.rounds = 20 contradicts evaluation.only, which is one round"),
        ((*ONLY, "secure_aggregation.enabled=false"), "counts leave masked or not at all"),
        ((*ONLY, "privacy.unit=example"), "privacy.unit = 'example' is not offered"),
        ((*PROMISED, "privacy.noise=central"), "privacy.noise = 'central' is not offered"),
        ((*PROMISED, "privacy.noise=local"), "privacy.noise = 'local' is not offered"),
        ((*PROMISED, "privacy.clip=2.0"), "privacy.clip means nothing to evaluation.only"),
        ((*PROMISED, "privacy.noise_cohort=100"), "privacy.noise_cohort means nothing to evaluation.only"),
        ((*ONLY, "training.learning_rate=0.5"), "training.learning_rate means nothing to evaluation.only"),
        ((*ONLY, "training.local_steps=5"), "training.local_steps means nothing to evaluation.only"),
        ((*ONLY, "training.sampling=poisson"), "training.sampling means nothing to evaluation.only"),
        ((*ONLY, "strategy.name=fedadam"), "strategy.name means nothing to evaluation.only"),
        ((*ONLY, "evaluation.patience=3"), "evaluation.patience means nothing to evaluation.only"),
        ((*ONLY, "evaluation.rows=some"), "evaluation.rows is not usable; input should be 'held-out' or 'all'"),
        (("evaluation.rows=all",), "evaluation.rows means nothing without evaluation.only"),
        ((*ONLY, "training=1"), "training is not usable"),
    ],
)
def test_what_contradicts_an_evaluation_is_refused_in_one_line(overrides: tuple[str, ...], expected: str) -> None:
    message = refusal(SMALLEST, *overrides)
    assert expected in message and "\n" not in message

"""A policy as a file: every key explained, every mistake one clear line, and no by default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tacit.client.policy import Policy
from tacit.client.policy_file import default_policy_toml, parse_policy, read_policy, with_pin
from tacit.models.errors import InputError

DIGEST = "ab" * 32


def test_the_file_to_begin_with_says_nothing_but_the_defaults() -> None:
    assert parse_policy(default_policy_toml()) == Policy()


def test_the_file_to_begin_with_has_every_key_with_its_meaning_above_it() -> None:
    lines = default_policy_toml().splitlines()
    for table, key in Policy.model_fields.items():
        clause = type(key.get_default())
        start = lines.index(f"[{table}]")
        for name, field in clause.model_fields.items():
            assert field.description and len(field.description) > 10
            pattern = rf"(# )?{name} = .+|# \[{table}\.{name}\]"
            at = next(n for n in range(start, len(lines)) if re.fullmatch(pattern, lines[n]))
            assert lines[at - 1].startswith("# ")


def test_what_is_commented_out_is_an_example_that_can_be_used() -> None:
    text = default_policy_toml().replace("0123...", DIGEST).replace("promised_noise = false", "promised_noise = true")
    used = re.sub(r"(?m)^# (?=[a-z_]+ = |\[|\")", "", text)
    policy = parse_policy(used)
    assert policy.privacy.epsilon_total is not None and policy.privacy.promised_epsilon_per_run is not None
    assert policy.approved.code == {"package.module:function": DIGEST}
    assert policy.budgets("client").keys() == {"assured", "promised"}


def test_a_policy_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(f'[approved]\nrecipes = ["{DIGEST}"]\n[privacy]\nepsilon_total = 8\n')
    policy = read_policy(path)
    assert policy.approved.recipes == (DIGEST,) and policy.privacy.epsilon_total == 8.0
    with pytest.raises(InputError, match="cannot be read"):
        read_policy(tmp_path / "none.toml")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8"):
        read_policy(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[privacy]\nepsilon_totl = 8", "unknown key 'privacy.epsilon_totl'; the nearest is 'epsilon_total'"),
        ("[privcy]\n", "unknown key 'privcy'; the nearest is 'privacy'"),
        ("[limits]\nmax_round = 8", "the nearest is 'max_rounds'"),
        ("privacy = 3", "'privacy' is not usable"),
        ("[privacy]\nepsilon_total = '8'", "'privacy.epsilon_total' is not usable; input should be a valid number"),
        ("[privacy]\nepsilon_total = 0", "'privacy.epsilon_total' is not usable; input should be greater than 0"),
        ("[privacy]\nepsilon_total = inf", "'privacy.epsilon_total' is not usable"),
        ("[privacy]\nmin_noise_multiplier = nan", "'privacy.min_noise_multiplier' is not usable"),
        ("[privacy]\naccept_unprotected = 1", "'privacy.accept_unprotected' is not usable"),
        ("[privacy]\nrequired_unit = 'none'", "'privacy.required_unit' is not usable"),
        ("[privacy]\nnoise_places = ['everywhere']", "'privacy.noise_places.0' is not usable"),
        ("[privacy]\ndelta = 1.0", "'privacy.delta' is not usable"),
        ("[secure_aggregation]\nmin_cohort = 1", "'secure_aggregation.min_cohort' is not usable"),
        ("[secure_aggregation]\nmax_colluders = -1", "'secure_aggregation.max_colluders' is not usable"),
        ("[secure_aggregation]\npinned_organisations = ['00']", "pinned_organisations.0' is not usable"),
        ("[approved]\nrecipes = ['ABCD']", "'approved.recipes.0' is not usable"),
        ("[approved]\nmodels = 'logistic'", "'approved.models' is not usable"),
        ("[approved]\nstatistics = ['everything']", "'approved.statistics.0' is not usable"),
        ("[approved.code]\n'net:build' = 'yes'", "'approved.code.net:build' is not usable"),
        ("[schedule]\nweekdays = ['monday']", "'schedule.weekdays.0' is not usable"),
        ("[schedule]\nfrom_hour_utc = 24", "'schedule.from_hour_utc' is not usable"),
        ("[schedule]\nuntil_hour_utc = 0", "'schedule.until_hour_utc' is not usable"),
        ("[schedule]\nfrom_hour_utc = 6\nuntil_hour_utc = 6", "it ends at the hour that it begins at"),
        ("[limits]\nmax_rounds = 0", "'limits.max_rounds' is not usable"),
        ("[limits]\nmax_rounds = true", "'limits.max_rounds' is not usable"),
        ("[limits]\ndevices = ['tpu']", "'limits.devices.0' is not usable"),
        ("[privacy]\nepsilon_per_run = 1", "epsilon_per_run is more than epsilon_total; grant less"),
        ("[privacy]\nepsilon_total = 1\nepsilon_per_run = 2", "epsilon_per_run is more than epsilon_total"),
        ("[privacy]\naccept_promised_noise = true", "grants nothing by itself; set promised_epsilon_total"),
        ("[privacy]\npromised_epsilon_total = 1", "means nothing without privacy.accept_promised_noise"),
        ("[privacy]\nepsilon_total = 1e-9", "no round fits into epsilon 1e-09 at delta 1e-05"),
        ("[privacy", "is not valid TOML"),
        ("x = " + "[" * 100_000, "is not usable TOML"),
        ("x = " + "9" * 10_000, "is not usable TOML"),
    ],
)
def test_a_mistake_is_one_line_that_says_where_and_what(text: str, said: str) -> None:
    with pytest.raises(InputError) as mistake:
        parse_policy(text, where="policy.toml")
    assert said in str(mistake.value) and str(mistake.value).startswith("policy.toml: ")
    assert "\n" not in str(mistake.value)


# Pins

KEY, OTHER = "ab" * 32, "cd" * 32
HIDE = "[secure_aggregation]\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{HIDE}pinned_organisations = []\n", f'{HIDE}pinned_organisations = ["{KEY}"]\n'),
        (f'{HIDE}pinned_organisations = ["{OTHER}"]\n', f'{HIDE}pinned_organisations = ["{OTHER}", "{KEY}"]\n'),
        (f"{HIDE}pinned_organisations=['{OTHER}',]\n", f"{HIDE}pinned_organisations=['{OTHER}', \"{KEY}\"]\n"),
        (
            f'{HIDE}pinned_organisations = [\n  "{OTHER}", # the clinic\n]\nmin_cohort = 7\n',
            f'{HIDE}pinned_organisations = [\n  "{OTHER}", # the clinic\n "{KEY}"]\nmin_cohort = 7\n',
        ),
        (
            f"{HIDE}pinned_organisations = [\n  '{OTHER}' # the clinic\n]\n",
            f"{HIDE}pinned_organisations = [\n  '{OTHER}' # the clinic\n, \"{KEY}\"]\n",
        ),
        (f"{HIDE}# mine\nmin_cohort = 7\n", f'{HIDE}pinned_organisations = ["{KEY}"]\n# mine\nmin_cohort = 7\n'),
        ("# mine\n", f'# mine\n\n{HIDE}pinned_organisations = ["{KEY}"]\n'),
        (
            f"# pinned_organisations = []\n{HIDE}pinned_organisations = [] # none yet\n",
            f'# pinned_organisations = []\n{HIDE}pinned_organisations = ["{KEY}"] # none yet\n',
        ),
    ],
)
def test_a_pin_is_added_and_nothing_else_changes(before: str, after: str) -> None:
    assert with_pin(before, KEY) == after
    pinned = parse_policy(after).secure_aggregation.pinned_organisations
    assert KEY in pinned and set(parse_policy(before).secure_aggregation.pinned_organisations) <= set(pinned)
    assert with_pin(after, KEY) == after


def test_a_pin_goes_into_the_file_that_init_makes() -> None:
    text = default_policy_toml()
    for key in (KEY, OTHER):
        text = with_pin(text, key)
    assert parse_policy(text).secure_aggregation.pinned_organisations == (KEY, OTHER)
    assert [line for line in text.splitlines() if "pinned_organisations =" not in line] == [
        line for line in default_policy_toml().splitlines() if "pinned_organisations =" not in line
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"secure_aggregation = {{ pinned_organisations = ['{OTHER}'] }}\n",
        f'secure_aggregation.pinned_organisations = ["{OTHER}"]\n',
    ],
)
def test_a_pin_that_cannot_be_added_safely_is_printed_to_be_added_by_hand(text: str) -> None:
    with pytest.raises(InputError, match=f'add "{KEY}" to pinned_organisations in .secure_aggregation. by hand'):
        with_pin(text, KEY)


def test_a_broken_policy_gets_no_pin() -> None:
    with pytest.raises(InputError, match="is not valid TOML"):
        with_pin(HIDE + "pinned_organisations = [", KEY)

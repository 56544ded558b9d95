"""Plots and report of a run directory, made from directories that are written here."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.models.errors import InputError
from tacit.simulations.drawing import COLOURS
from tacit.simulations.labels import number
from tacit.simulations.partition_plot import MOST_CLASSES, by_likeness, class_shares
from tacit.simulations.plots import OUTCOMES, write_plots
from tacit.simulations.report import _bound, write_report
from tacit.simulations.run_files import PartitionFile, read_run_files

GARMENTS = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CLASSIFICATION = ("accuracy", "macro_precision", "macro_recall", "macro_f1", "auroc", "expected_calibration_error")
NO_PRIVACY = {
    "unit": "none",
    "epsilon": None,
    "epsilon_fellow_clients": None,
    "epsilon_outsiders": None,
    "delta": None,
    "noise_multiplier": None,
    "clip": None,
    "accountant": None,
    "hypothetical": False,
    "sentence": "No differential privacy: nothing bounds what the released model says about a client or an example.",
}


def write_run(
    directory: Path,
    *,
    rounds: int = 20,
    clients: int = 50,
    cohort: int = 20,
    classes: Sequence[str] = GARMENTS,
    names: Sequence[str] | None = None,
    failing: Iterable[int] = (3,),
    privacy: dict[str, Any] | None = None,
    secure: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
) -> Path:
    """Write a run directory as a simulation leaves it, with made-up but plausible numbers."""
    rng = np.random.default_rng(1)
    names = list(names or (f"client-{i:0{len(str(clients))}d}" for i in range(1, clients + 1)))
    directory.mkdir(parents=True, exist_ok=True)
    lines, absences = [attempt_line(0, 0, [clients, 0, 0, 0], {})], []
    for round_number in range(1, rounds + 1):
        decay = np.exp(-3 * round_number / rounds)
        if classes:
            reached = 0.88 - 0.6 * decay
            measured = {"loss": 0.35 + 1.9 * decay} | dict.fromkeys(CLASSIFICATION[:4], reached)
            measured |= {"auroc": 0.98 - 0.2 * decay, "expected_calibration_error": 0.03 + 0.1 * decay}
        else:
            measured = {"loss": 0.4 + decay, "mae": 41 + 20 * decay, "rmse": 54 + 22 * decay, "r2": 0.5 - decay}
        metrics: dict[str, float | None] = {"train_loss": 0.3 + 2 * decay + 0.03 * rng.normal()}
        metrics |= {f"validation_{name}": value + 0.008 * rng.normal() for name, value in measured.items()}
        attempt = 0
        if round_number in failing:
            lines.append(attempt_line(round_number, 0, [3, cohort - 3, 0, 0], {}, "3 reported, the quorum is 16"))
            attempt = 1
        gone = rng.multinomial(min(3, cohort - 1), [0.3, 0.2, 0.1, 0.4])[:3]
        lines.append(attempt_line(round_number, attempt, [cohort - int(gone.sum()), *map(int, gone)], metrics))
        reasons = ("the connection broke", "no answer within 600 s", "the policy's schedule says not now")
        for outcome, reason, count in zip(("dropped", "late", "refused"), reasons, gone, strict=True):
            absences += [
                {
                    "round": round_number,
                    "attempt": attempt,
                    "client": names[int(rng.integers(clients))],
                    "outcome": outcome,
                    "reason": reason,
                    "exchange": "training",
                }
                for _ in range(count)
            ]
    proportions = rng.dirichlet(np.full(clients, 0.5), max(1, len(classes))).T
    counts = np.maximum(1, proportions * 60_000 / max(1, len(classes))).astype(int)
    rows = counts.sum(1).tolist()
    values = np.clip(0.86 + 0.06 * rng.normal(size=clients), 0, 1) if classes else 54 + 6 * rng.normal(size=clients)
    lead = "accuracy" if classes else "rmse"
    at_clients = {names[i]: {"examples": 10 + i, lead: float(values[i])} for i in range(clients)}
    averages = {
        "weighted_mean": {lead: float(values.mean() + 0.004)},
        "mean": {lead: float(values.mean())},
        "worst_decile": {lead: float(np.quantile(values, 0.05 if classes else 0.95))},
    }
    final = {name.removeprefix("validation_"): value for name, value in metrics.items() if name != "train_loss"}
    (directory / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    write_json(
        directory / "environment.json",
        {
            "python": "3.11.9",
            "packages": {"flwr": "1.41.0", "numpy": "2.4.6", "torch": "2.13.0"},
            "platform": "Linux-6.1-x86_64-with-glibc2.36",
            "cpu": "Some Processor 3000",
            "gpu": None,
            "device": "cpu",
            "threads": 1,
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
        },
    )
    write_lines(directory / "rounds.jsonl", lines)
    write_lines(directory / "participation.jsonl", absences)
    partition = {"clients": names, "classes": list(classes), "counts": counts.tolist() if classes else []}
    write_json(directory / "partition.json", partition | {"rows": rows, "test_rows": [row // 6 for row in rows]})
    write_json(directory / "per_client.json", {"clients": at_clients} | averages)
    write_json(
        directory / "summary.json",
        {
            "run": "20260314-101500-fashion",
            "recipe_name": "fashion",
            "task": "image-classification" if classes else "tabular-regression",
            "rounds_completed": rounds,
            "clients": clients,
            "cohort": cohort,
            "metrics": final,
            "privacy": {key: value for key, value in (privacy or NO_PRIVACY).items() if key != "sentence"},
            "secure_aggregation": secure or {"enabled": False, "threshold": None, "min_cohort": None},
            "timing": {"wall_seconds": 41.27, "seconds_per_round": 1.9, "clients_per_second": 10.4},
            "model": {"name": "fashion", "version": 3, "sha256": "ab" * 32},
            "per_client": averages,
            "best_round": max(1, rounds - 3),
            "stopped": None,
            "warnings": [],
        }
        | (summary or {}),
    )
    write_json(directory / "privacy.json", privacy or NO_PRIVACY)
    return directory


def attempt_line(
    number: int, attempt: int, counts: Sequence[int], metrics: dict[str, float | None], reason: str = ""
) -> dict[str, Any]:
    """Return one line of `rounds.jsonl`; `counts` are reported, dropped, late and refused."""
    outcomes = dict(zip(("reported", "dropped", "late", "refused"), counts, strict=True))
    start = {"round": number, "attempt": attempt, "committed": not reason, "reason": reason, "seconds": 1.9}
    return start | {"selected": sum(counts)} | outcomes | metrics


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, values: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


RECIPE = """\
name = "fashion"
seed = 7

[task]
kind = "image-classification"

[data]
source = "idx:${TACIT_DATA}/fashion-mnist"

[population]
clients = 50
partition = "dirichlet"
alpha = 0.5
"""

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{1}$ $",
    "\x1b[31mred",
    "\ud800",
    'id="x" fill: #1b6ab0 url(#a)',
    "{{ 7 * 7 }}",
    "\u75c5\u9662",
    "a" * 200,
    "two\nlines",
)
DIFFERENTIAL_PRIVACY = {
    "unit": "client",
    "epsilon": 7.9961,
    "epsilon_outsiders": 6.12,
    "delta": 1e-05,
    "noise_multiplier": 0.7215,
    "clip": 1.0,
    "accountant": "PLD",
    "hypothetical": False,
    "sentence": "What the model says about any one client is bounded by epsilon 7.9961 at delta 1e-05.",
}
VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})


class Page(HTMLParser):
    """What a test asks of a page: its elements in order, its text, and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        where = self._open[-1] if self._open else ""
        if where == "style":
            return
        self.text.append(data)
        if where in ("td", "th"):
            self._rows[-1][-1] += data
        if where == "caption":
            self.tables[data] = self._rows

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def page_of(directory: Path) -> Page:
    return Page(write_report(directory).read_text(encoding="utf-8"))


def change(path: Path, update: Callable[[Any], Any]) -> None:
    write_json(path, update(json.loads(path.read_text(encoding="utf-8"))))


def change_rounds(directory: Path, update: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    lines = (directory / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    write_lines(directory / "rounds.jsonl", [update(json.loads(line)) for line in lines])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 rounds and 50 clients; tests that change files make their own."""
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return page_of(run)


def small(directory: Path, **settings: Any) -> Path:
    return write_run(directory, **{"rounds": 4, "clients": 6, "cohort": 4, "classes": ("no", "yes")} | settings)


def test_the_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert not set(attributes) & {"src", "srcset", "action", "data", "xlink:href"}
        if "href" in attributes:
            assert attributes["href"].startswith("data:image/png;base64," if tag == "image" else "#")
        for url in re.findall(r"url\(([^)]*)\)", " ".join(attributes.values())):
            assert url.startswith("#")
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_every_identifier_is_used_once_and_every_reference_leads_somewhere(page: Page) -> None:
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in page.elements:
        links = [attributes["href"][1:]] if attributes.get("href", "").startswith("#") else []
        links += re.findall(r"url\(#([^)]*)\)", " ".join(attributes.values()))
        links += [attributes["aria-labelledby"]] if "aria-labelledby" in attributes else []
        assert set(links) <= set(identifiers)


def test_every_chart_has_words_and_a_table(page: Page) -> None:
    charts = [one for one in page.all("svg") if one["class"] == "plot"]
    assert len(charts) == 5
    assert all(one["role"] == "img" and len(one["aria-label"]) > 40 for one in charts)
    inside: list[set[str]] = []
    for tag, _ in page.elements:
        if tag == "figure":
            inside.append(set())
        elif inside:
            inside[-1].add(tag)
    assert len(inside) == 5
    assert all({"h3", "svg", "figcaption", "details", "table"} <= tags for tags in inside)


def test_headings_go_down_one_level_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_tables_say_what_the_files_say(run: Path, page: Page) -> None:
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    committed = [line for line in lines if line["committed"] and line["round"]]
    expected = [
        [str(line["round"]), f"{line['train_loss']:.4f}", f"{line['validation_loss']:.4f}"] for line in committed
    ]
    assert [row[:3] for row in page.tables["Loss by round"][1:]] == expected
    counts = ("selected", "reported", "dropped", "late", "refused")
    participation = page.tables["Participation in every attempt of every round"]
    assert participation[0][3:] == list(counts)
    assert [row[3:] for row in participation[1:]] == [[str(line[name]) for name in counts] for line in lines]
    partition = json.loads((run / "partition.json").read_text(encoding="utf-8"))
    shown = page.tables["Training rows at each client, by class"]
    assert shown[0] == ["client", "training rows", "test rows", *partition["classes"]]
    assert [[int(cell.replace(",", "")) for cell in row[3:]] for row in shown[1:]] == partition["counts"]


def test_a_failed_attempt_is_told_with_its_reason(page: Page) -> None:
    rows = page.tables["Participation in every attempt of every round"]
    assert ["3", "1", "failed: 3 reported, the quorum is 16"] in [row[:3] for row in rows]
    assert "1 attempt of a round failed" in page.words


def test_reasons_are_counted_the_most_frequent_first(run: Path, page: Page) -> None:
    lines = (run / "participation.jsonl").read_text(encoding="utf-8").splitlines()
    late = [json.loads(line) for line in lines if json.loads(line)["outcome"] == "late"]
    rows = page.tables["Why clients did not report"][1:]
    times = [int(row[3]) for row in rows]
    assert times == sorted(times, reverse=True) and sum(times) == len(lines)
    expected = ["late", "no answer within 600 s", "training", str(len(late)), str(len({one["client"] for one in late}))]
    assert expected in rows


def test_without_privacy_the_page_says_that_nothing_protects_the_model(page: Page) -> None:
    assert NO_PRIVACY["sentence"] in page.words
    assert "Nothing protects the released model." in page.words
    assert "The coordinator sees every single update." in page.words


def test_a_run_with_privacy_shows_its_statement_to_the_last_digit(tmp_path: Path) -> None:
    secure = {"enabled": True, "threshold": 14, "min_cohort": 5}
    page = page_of(small(tmp_path, privacy=DIFFERENTIAL_PRIVACY, secure=secure))
    for value in (DIFFERENTIAL_PRIVACY["sentence"], "7.9961", "6.12", "1e-05", "0.7215", "PLD"):
        assert str(value) in page.words
    assert "Nothing protects" not in page.words and "sees every single update" not in page.words
    assert "sums over at least 5 clients; the threshold was 14." in page.words


def test_the_page_says_whom_the_masks_withstand(tmp_path: Path) -> None:
    secure = {"enabled": True, "threshold": 14, "min_cohort": 5, "adversary": "honest-but-curious coordinator"}
    page = page_of(small(tmp_path, privacy=DIFFERENTIAL_PRIVACY, secure=secure))
    assert "It withstands: honest-but-curious coordinator." in page.words


@pytest.mark.parametrize("said", [{}, {"enabled": False}])
def test_secure_aggregation_that_nobody_switched_on_is_off(tmp_path: Path, said: dict[str, Any]) -> None:
    small(tmp_path, privacy=DIFFERENTIAL_PRIVACY)
    change(tmp_path / "summary.json", lambda summary: summary | {"secure_aggregation": said})
    assert "The coordinator sees every single update." in page_of(tmp_path).words


@pytest.mark.parametrize("unit", [None, "none", "something"])
def test_a_unit_that_is_not_known_protects_nobody(tmp_path: Path, unit: str | None) -> None:
    page = page_of(small(tmp_path, privacy=DIFFERENTIAL_PRIVACY | {"unit": unit}))
    assert "Nothing protects the released model." in page.words
    assert "no epsilon is promised" in page.words


def test_a_hypothetical_promise_is_called_one(tmp_path: Path) -> None:
    page = page_of(small(tmp_path, privacy=DIFFERENTIAL_PRIVACY | {"hypothetical": True}))
    assert "This is hypothetical." in page.words
    assert "for each client, hypothetical" in page.words


def test_an_epsilon_that_is_missing_is_not_made_up(tmp_path: Path) -> None:
    page = page_of(small(tmp_path, privacy=DIFFERENTIAL_PRIVACY | {"epsilon": None, "epsilon_outsiders": None}))
    assert "epsilon not stated for each client" in page.words


def test_noise_that_the_coordinator_makes_is_a_promise_against_readers_alone(tmp_path: Path) -> None:
    page = page_of(small(tmp_path, privacy=DIFFERENTIAL_PRIVACY | {"epsilon": None, "epsilon_outsiders": 3.5}))
    assert "epsilon 3.5 for each client, against readers alone" in page.words.replace("3.5 epsilon", "epsilon 3.5")


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_a_bound_is_never_rounded_down(epsilon: float) -> None:
    text = _bound(epsilon)
    shown = float(text.removeprefix("\N{LESS-THAN OR EQUAL TO} "))
    assert epsilon <= shown <= epsilon * 1.01
    assert text.startswith("\N{LESS-THAN OR EQUAL TO}") == (shown != epsilon)


def test_whatever_a_client_is_called_stays_text(tmp_path: Path) -> None:
    names = [*HOSTILE, "client-11"]
    write_run(tmp_path, rounds=3, clients=11, cohort=5, names=names, classes=HOSTILE[:5])
    hostile = {"recipe_name": HOSTILE[0], "warnings": list(HOSTILE), "stopped": HOSTILE[1]}
    change(tmp_path / "summary.json", lambda summary: summary | hostile)
    (tmp_path / "recipe.toml").write_text(f"name = '{HOSTILE[0]}'\n{HOSTILE[1]}", encoding="utf-8")
    write_plots(tmp_path)
    page = page_of(tmp_path)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "img"})
    assert HOSTILE[0] in page.words and HOSTILE[1] in page.words
    assert "{{ 7 * 7 }}" in page.words
    assert not set("\x1b\ud800") & set(page.words)
    assert HOSTILE[5] in [row[0] for row in page.tables["The final model at each client"]]


def test_the_same_run_gives_the_same_bytes_whatever_matplotlib_is_set_to(tmp_path: Path) -> None:
    import matplotlib

    small(tmp_path)

    def digests() -> list[str]:
        paths = [*write_plots(tmp_path), write_report(tmp_path)]
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]

    first = digests()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        settings = dict(matplotlib.rcParams)
        assert digests() == first
        assert dict(matplotlib.rcParams) == settings


def test_plots_are_pictures_without_a_word_on_when_or_with_what_they_were_made(tmp_path: Path) -> None:
    from PIL import Image

    paths = write_plots(small(tmp_path))
    assert [path.name for path in paths] == [
        "loss.png",
        "metrics.png",
        "participation.png",
        "partition.png",
        "per-client.png",
    ]
    assert sorted((tmp_path / "plots").iterdir()) == sorted(paths)
    for path in paths:
        with Image.open(path) as picture:
            picture.load()
            assert picture.width == 960
            assert set(picture.info) == {"Title", "dpi"}


def test_drawing_does_not_touch_pyplot_and_importing_does_not_touch_matplotlib(run: Path) -> None:
    code = """
import sys
from pathlib import Path
from tacit.simulations.plots import write_plots
from tacit.simulations.report import write_report
assert not {"matplotlib", "jinja2", "torch"} & set(sys.modules)
write_plots(Path(sys.argv[1]))
write_report(Path(sys.argv[1]))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(run)], check=True, timeout=60)


def test_colours_follow_the_reader_from_light_to_dark(run: Path, page: Page) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    light, dark = html.split("@media screen and (prefers-color-scheme: dark)")[:2]
    for name, (on_white, on_black) in COLOURS.items():
        assert f"--{name}: {on_white};" in light and f"--{name}: {on_black};" in dark
    drawn = [value for _, attributes in page.elements for value in attributes.values()]
    assert not any(on_white in value for on_white, _ in COLOURS.values() for value in drawn)
    assert any("stroke: var(--orange)" in value for value in drawn)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_and_marks_stand_out_from_the_background(theme: int) -> None:
    """The ratios of WCAG 2.2: 4.5 for text, 3 for what one must see of a graphic."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    paper = luminance(COLOURS["paper"][theme])
    for name, colours in COLOURS.items():
        if name in ("paper", "rule"):
            continue
        lighter, darker = sorted((luminance(colours[theme]), paper), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= (4.5 if name in ("ink", "muted", "blue") else 3.0), name


def test_outcomes_differ_in_more_than_colour() -> None:
    assert len({hatch for _, _, hatch in OUTCOMES}) == len(OUTCOMES) == len({colour for _, colour, _ in OUTCOMES})


def test_a_run_without_classes_shows_rows_and_errors(tmp_path: Path) -> None:
    write_plots(small(tmp_path, classes=()))
    page = page_of(tmp_path)
    assert "Rows at each client" in page.words and "Root mean squared error at each client" in page.words
    assert page.tables["Training rows at each client"][0] == ["client", "training rows", "test rows"]


def test_a_run_whose_clients_tell_no_loss_has_none_in_words_or_columns(tmp_path: Path) -> None:
    small(tmp_path)
    titles = page_of(tmp_path).tables["Loss by round"][0]
    assert titles == ["round", "training", "validation", "seconds"]
    assert "at the clients while they train, and of the aggregated model" in page_of(tmp_path).words
    lines = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    write_lines(tmp_path / "rounds.jsonl", [{k: v for k, v in line.items() if k != "train_loss"} for line in lines])
    write_plots(tmp_path)
    page = page_of(tmp_path)
    assert page.tables["Loss by round"][0] == [title for title in titles if title != "training"]
    assert "Mean loss by round: of the aggregated model on the validation share, which no client holds." in page.words
    assert "while they train" not in page.words and "training loss" not in page.words.lower()


def test_what_was_not_recorded_is_left_out(tmp_path: Path) -> None:
    small(tmp_path)
    for name in ("participation.jsonl", "partition.json", "per_client.json"):
        (tmp_path / name).unlink()
    change(tmp_path / "summary.json", lambda summary: summary | {"per_client": {}, "metrics": {}, "best_round": None})
    assert [path.stem for path in write_plots(tmp_path)] == ["loss", "metrics", "participation"]
    page = page_of(tmp_path)
    assert "simulat" not in page.words.replace("tacit simulate", "")
    assert not {"#data", "#clients"} & {one["href"] for one in page.all("a")}
    assert "Every client that was selected reported." in page.words


def test_a_run_of_nothing_but_the_preparation_has_a_page_without_curves(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "per_client.json").unlink()
    first = (tmp_path / "rounds.jsonl").read_text(encoding="utf-8").splitlines()[0]
    (tmp_path / "rounds.jsonl").write_text(first + "\n", encoding="utf-8")
    assert [path.stem for path in write_plots(tmp_path)] == ["partition"]
    assert page_of(tmp_path).tables["Participation in every attempt of every round"][1][0] == "preparation"


@pytest.mark.parametrize("value", [None, 1e29, 1e300, -1e300])
def test_no_measured_value_breaks_a_plot(tmp_path: Path, value: float | None) -> None:
    def extreme(line: dict[str, Any]) -> dict[str, Any]:
        return {key: value if "_" in key and line["round"] % 2 else old for key, old in line.items()}

    change_rounds(small(tmp_path), extreme)
    change(
        tmp_path / "per_client.json",
        lambda file: file | {"clients": {name: each | {"accuracy": value} for name, each in file["clients"].items()}},
    )
    write_plots(tmp_path)
    rows = page_of(tmp_path).tables["Loss by round"]
    assert rows[1][1:3] == [number(value)] * 2


def test_a_metric_that_was_never_measured_has_no_panel_and_no_histogram(tmp_path: Path) -> None:
    change_rounds(small(tmp_path), lambda line: {key: None if "_" in key else old for key, old in line.items()})
    change(
        tmp_path / "per_client.json",
        lambda file: file | {"clients": {name: {"examples": 3, "accuracy": None} for name in file["clients"]}},
    )
    assert [path.stem for path in write_plots(tmp_path)] == ["participation", "partition"]


def test_a_thousand_clients_fit_and_a_cut_table_says_so(tmp_path: Path) -> None:
    classes = [f"class {index}" for index in range(MOST_CLASSES + 30)]
    small(tmp_path, rounds=200, clients=1000, cohort=50, classes=classes)
    page = page_of(tmp_path)
    left = 20_000 // (len(classes) + 3)
    assert len(page.tables["Training rows at each client, by class"]) == left + 1
    assert f"These are the first {left} of 1,000 rows; all are in partition.json." in page.words
    assert f"Shown are the {MOST_CLASSES} most frequent of {len(classes)} classes." in page.words
    assert "Each line is the mean of 7 clients." in page.words and "Each bar is the mean of 4 rounds." in page.words
    assert (tmp_path / "report.html").stat().st_size < 2_000_000


@given(st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=1, max_size=9))
def test_shares_are_of_all_rows_of_a_client(counts: list[list[int]]) -> None:
    rows = [sum(row) for row in counts]
    names = [str(index) for index in range(len(counts))]
    shares, labels = class_shares(PartitionFile(clients=names, classes=list("abcd"), counts=counts, rows=rows))
    assert labels == list("abcd")
    for row, held, total in zip(shares, counts, rows, strict=True):
        assert math.isclose(row.sum(), 1.0 if total else 0.0)
        assert np.allclose(row * total, held)


def test_clients_are_ordered_by_class_then_purity_then_size() -> None:
    shares = np.array([[0.4, 0.6], [1.0, 0.0], [0.0, 1.0], [0.7, 0.3], [1.0, 0.0]])
    assert by_likeness(shares, np.array([1, 1, 1, 1, 2])).tolist() == [4, 1, 3, 2, 0]


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("rounds.jsonl", '{"round": 0', "rounds.jsonl line 1"),
        ("rounds.jsonl", '{"round": 0, "committed": true}', "selected"),
        ("participation.jsonl", "[]", "participation.jsonl line 1"),
        ("summary.json", "[]", "summary.json"),
        ("privacy.json", "\n{", "privacy.json line 2"),
        ("partition.json", '{"clients": ["a"], "classes": ["x"], "counts": [[1, 2]], "rows": [3]}', "1 clients x 1"),
        ("partition.json", '{"clients": ["a"], "rows": [3, 4]}', "1 clients"),
        ("per_client.json", '{"clients": {"a": {"accuracy": "high"}}}', "accuracy"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_nothing_is_written(
    tmp_path: Path, name: str, text: str, where: str
) -> None:
    small(tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    for write in (write_plots, write_report):
        with pytest.raises(InputError, match=re.escape(where)) as caught:
            write(tmp_path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "plots").exists() and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["recipe.toml", "environment.json", "rounds.jsonl", "summary.json", "privacy.json"])
def test_a_file_that_every_run_has_must_be_there(tmp_path: Path, name: str) -> None:
    small(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=re.escape(name)):
        read_run_files(tmp_path)


def test_the_commands_at_the_end_name_this_run_and_model(page: Page) -> None:
    assert "tacit runs show 20260314-101500-fashion" in page.words
    assert "tacit predict --url http://127.0.0.1:8100 --model fashion --version 3 --input FILE" in page.words
    assert "tacit serve" in page.words

"""How benchmarks print, and that secure aggregation's measures what it says."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tacit.simulations.benchmarks import __main__ as command
from tacit.simulations.benchmarks import secure_aggregation
from tacit.simulations.benchmarks.figure import Figure, absent, cpu_seconds, median_ratio


@pytest.fixture
def measured(monkeypatch):
    class Fake:
        asked = []

        @classmethod
        def figures(cls, quick):
            cls.asked.append(quick)
            return [
                Figure("speed_ratio", 1.25, "ratio", "the bare thing", 1.0, "9 times"),
                absent("other_over_tacit", "ratio", "it cannot be installed"),
            ]

    monkeypatch.setattr(command, "load", lambda name: Fake)
    return Fake


def test_json_has_the_machine_and_every_figure_with_every_field(measured):
    result = CliRunner().invoke(command.main, ["secure-aggregation", "--quick", "--format", "json"])
    assert result.exit_code == 0 and measured.asked == [True]
    printed = json.loads(result.output)
    assert set(printed) == {"machine", "figures"}
    assert {"processor", "cores", "memory_gib", "python", "packages"} <= set(printed["machine"])
    assert printed["figures"][0] == {
        "name": "speed_ratio",
        "value": 1.25,
        "unit": "ratio",
        "baseline": "the bare thing",
        "baseline_value": 1.0,
        "detail": "9 times",
    }
    assert printed["figures"][1]["value"] is None  # absent, not zero
    assert printed["figures"][1]["detail"] == "absent: it cannot be installed"


def test_the_table_says_absent_where_there_is_no_number(measured):
    result = CliRunner().invoke(command.main, ["secure-aggregation"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert "speed_ratio" in lines[1] and "1.25" in lines[1] and "the bare thing" in lines[1]
    assert "absent" in lines[2] and " 0 " not in lines[2]


def test_an_unknown_benchmark_is_wrong_usage():
    result = CliRunner().invoke(command.main, ["speed"])
    assert result.exit_code == 2 and "secure-aggregation" in result.output


def test_a_benchmark_that_this_version_lacks_is_wrong_usage(monkeypatch):
    monkeypatch.setitem(command.BENCHMARKS, "serving", "tacit.simulations.benchmarks.not_there")
    result = CliRunner().invoke(command.main, ["serving"])
    assert result.exit_code == 2 and "not in this version" in result.output


def test_ratios_are_of_processor_time_and_medians_of_pairs(monkeypatch):
    worked = 0.0  # waiting is not work: of this clock alone the figures know

    def work(*seconds):
        turns = iter(seconds)

        def action():
            nonlocal worked
            worked += next(turns)

        return action

    monkeypatch.setattr("tacit.simulations.benchmarks.figure.time.process_time", lambda: worked)
    assert cpu_seconds(work(4.0)) == 4.0
    # The pairs' ratios are 2, 3 and 1, of which the median is not the ratio of the medians.
    assert median_ratio(work(2.0, 9.0, 8.0), work(1.0, 3.0, 8.0), 3) == (2.0, 8.0, 3.0)


def test_a_measured_round_is_a_real_one_and_its_sum_is_checked():
    vectors = secure_aggregation.vectors_of(6, 2000)
    spent = secure_aggregation.tacit_round(vectors, frozenset({2}), colluders=1, dropout=0.17)
    assert spent.error <= 1.0
    assert min(seconds for name, seconds in spent.clients.items()) > 0.0 and spent.server > 0.0
    # The one that dropped out sent its keys and shares; the others a packed vector on top.
    assert spent.uploads["member-00002"] < 3000 < 3 * 2001 < spent.uploads["member-00000"]


def test_the_coordinators_memory_does_not_grow_with_the_members():
    few, many = (secure_aggregation._server_peak(members, 100_000) for members in (4, 24))
    one_vector = 4 * 100_000
    assert many - few < one_vector  # twenty more members, each with a masked vector
    assert many < 7 * one_vector


@pytest.mark.slow
def test_flowers_own_protocol_gives_the_mean_when_it_is_measured():
    flower = pytest.importorskip("tacit.simulations.benchmarks.flower_secagg")
    vectors = secure_aggregation.vectors_of(5, 500)
    seconds, mean = flower.flower_round(vectors, frozenset({1}), 3, 8.0)
    assert seconds > 0.0
    np.testing.assert_allclose(mean, np.delete(vectors, 1, axis=0).mean(axis=0), atol=1e-4)

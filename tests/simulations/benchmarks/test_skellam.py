"""The noise benchmark prints the figures that were promised."""

from itertools import count

import pytest

from tacit.simulations.benchmarks.skellam import figures


def test_the_promised_figures_come_out_in_nanoseconds_of_one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = count()
    # Whatever is measured takes 0.005 s: of a million coordinates each takes 5 ns.
    monkeypatch.setattr("tacit.simulations.benchmarks.figure.time.process_time", lambda: 0.005 * next(readings))
    found = {figure.name: figure for figure in figures(quick=True)}
    assert [*found] == [
        "skellam_ns_per_coordinate",
        "skellam_ns_per_coordinate_sigma300",
        "skellam_ns_per_coordinate_sigma3000",
    ]
    for figure in found.values():
        assert (figure.value, figure.baseline_value, figure.unit) == (pytest.approx(5.0), pytest.approx(5.0), "ns")

"""The noise benchmark prints the figures that were promised."""

from tacit.simulations.benchmarks.skellam import figures


def test_the_promised_figures_come_out_within_the_promised_time() -> None:
    found = {figure.name: figure for figure in figures(quick=True)}
    limits = {
        "skellam_ns_per_coordinate": 120.0,
        "skellam_ns_per_coordinate_sigma300": 120.0,
        "skellam_ns_per_coordinate_sigma3000": 200.0,
    }
    assert found.keys() == limits.keys()
    for name, limit in limits.items():
        value = found[name].value
        assert value is not None and 0.0 < value <= limit and found[name].unit == "ns"

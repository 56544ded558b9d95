"""The plot of accuracy over epsilon, from finished runs."""

import json
from pathlib import Path

import pytest

from tacit.simulations.benchmarks.privacy_curve import main, point_of


def run(directory: Path, accuracy: float, epsilon: float | None, *, hypothetical: bool = False) -> Path:
    directory.mkdir()
    privacy = {"epsilon_outsiders": epsilon, "hypothetical": hypothetical}
    (directory / "summary.json").write_text(json.dumps({"metrics": {"accuracy": accuracy}, "privacy": privacy}))
    return directory


def test_every_run_is_a_point_and_its_numbers_are_told_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        run(tmp_path / "a", 0.86, 7.7, hypothetical=True),
        run(tmp_path / "b", 0.50, 7.7),
        run(tmp_path / "c", 0.87, None),
    ]
    main([*map(str, runs), "--out", str(tmp_path / "curve.png")])
    said = capsys.readouterr().out
    assert "0.860 at epsilon 7.70 (hypothetical" in said and "0.500 at epsilon 7.70 (as promised" in said
    assert "0.870 without noise" in said
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_directory_without_a_result_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path), "--out", str(tmp_path / "curve.png")])
    assert caught.value.code == 2 and "no finished run" in capsys.readouterr().err
    assert not (tmp_path / "curve.png").exists()


def test_a_run_without_a_promise_has_no_epsilon(tmp_path: Path) -> None:
    assert point_of(run(tmp_path / "a", 0.9, None)).epsilon is None

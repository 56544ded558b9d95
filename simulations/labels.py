"""Numbers and names as plots and reports print them."""

from __future__ import annotations

METRIC_LABELS = {
    "auroc": "AUROC",
    "expected_calibration_error": "calibration error",
    "mae": "mean absolute error",
    "macro_f1": "macro F1",
    "r2": "R squared",
    "rmse": "root mean squared error",
    "train_loss": "training loss",
}


def metric_label(name: str) -> str:
    """Return a metric's name in words."""
    return METRIC_LABELS.get(name, name.replace("_", " "))


def number(value: float | None) -> str:
    """Return a count as it is, a measured value with about four digits, an en dash for none."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if value and not 1e-3 <= size < 1e9:
        return f"{value:.3g}"
    return f"{value:.4f}" if size < 10 else f"{value:,.2f}" if size < 1e4 else f"{value:,.0f}"


def short(name: str, most: int = 16) -> str:
    """Return a name, cut to at most so many characters."""
    return name if len(name) <= most else name[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"

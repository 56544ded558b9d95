"""What a coordinator writes to standard error: its own lines, and of the libraries' what an operator can use."""

from __future__ import annotations

import logging

# What Flower calls an error where an answer comes after its round was over: the round's own line names who was late.
LATE_ANSWERS = frozenset({"Message with ID %s does not exist.", "Failed to store object %s: %s"})


def log_to_stderr() -> None:
    """Begin to log, also where an import has set up a handler of its own; libraries from a warning on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    for name in ("alembic", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)


def tame_flower() -> None:
    """Take away the console that Flower opens when it is imported, and with it every line's coloured double."""
    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return record.msg not in LATE_ANSWERS

"""A coordinator's log: each line once, without colours, and nothing that an operator can do nothing with."""

from __future__ import annotations

import subprocess
import sys

import pytest

SPOKEN = """
import logging
from tacit.server.cli.log import log_to_stderr, tame_flower
log_to_stderr()
from flwr.common.logger import log
tame_flower()
logging.getLogger("tacit.server").info("a run begins")
logging.getLogger("alembic.runtime").info("Context impl SQLiteImpl.")
logging.getLogger("uvicorn.error").info("Waiting for application startup.")
log(logging.ERROR, {template!r}, *{values!r})
log(logging.ERROR, "the state is lost")
"""


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("Message with ID %s does not exist.", ("ab",)),
        ("Failed to store object %s: %s", ("ab", "NoObjectInStoreError")),
    ],
)
def test_every_line_is_there_once_and_late_answers_are_no_errors(template: str, values: tuple[str, ...]) -> None:
    script = SPOKEN.format(template=template, values=values)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "" and "\x1b" not in done.stderr
    assert [line.partition(" ")[2].partition(" ")[2] for line in done.stderr.splitlines()] == [
        "a run begins",
        "the state is lost",
    ]


def test_flower_still_says_what_is_kept_from_the_log_in_these_words() -> None:
    from inspect import getsource

    from flwr.server.superlink.linkstate import in_memory_linkstate
    from flwr.supercore.corestate import in_memory_corestate

    from tacit.server.cli.log import LATE_ANSWERS

    sources = getsource(in_memory_linkstate) + getsource(in_memory_corestate)
    assert all(f'"{text}"' in sources for text in LATE_ANSWERS)

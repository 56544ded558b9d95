"""An owner pauses the agent from its page, in a browser, while a federation of five trains, and the others go on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.client.page.served import link_to

from ..chromium import CHROMIUM, Chromium  # noqa: TID252 - tests are no package that could be named
from .wards import NAMES, Commands, Wards, until

OURS = NAMES[0]
ROUNDS = 60  # so many that it is in the middle of them when the button is pressed, on any machine


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    commands = Commands()
    yield commands
    commands.close()


@pytest.fixture
def wards(tmp_path: Path, commands: Commands) -> Iterator[Wards]:
    made = Wards(tmp_path, commands, rounds=ROUNDS, overrides=["training.quorum=0.8"])
    yield made
    made.close()


def inputs(wards: Wards) -> list[int]:
    """Return the rounds that an update has left for, in order."""
    entries = (entry for entry in wards.account(OURS) if entry["kind"] == "message-left")
    return [entry["details"]["round"] for entry in entries if entry["details"]["what"] == "mask"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_pause_on_the_page_ends_an_agents_part_in_a_run_that_goes_on(wards: Wards, tmp_path: Path) -> None:
    wards.up()
    wards.enrol()
    directory = tmp_path / OURS
    words = ("agent", "start", "--ui-port", "0", "--dir", str(directory))
    wards.agents[OURS] = wards._start(directory / "log", *words)
    wards.join(*NAMES[1:])
    until(lambda: link_to(directory / "page") is not None, why=lambda: wards.said(OURS))
    link = link_to(directory / "page")
    assert link is not None
    browser = Chromium(tmp_path / "profile")
    try:
        browser.open(link)
        browser.until("document.getElementById('state-title')?.textContent.includes('Taking part')")
        wards.begin()
        until(lambda: max(inputs(wards), default=0) > 0, why=lambda: wards.log)
        browser.run("document.getElementById('switch').click()")
        browser.until("document.getElementById('state-title')?.textContent.includes('Paused')")
        when_paused = inputs(wards)
        run = wards.finish()
        browser.until("document.getElementById('refusals').innerText.includes('You had paused the agent.')")
        # What had left when the answer to the button came was all, but for the round that was being masked then.
        assert 0 < max(when_paused) < ROUNDS and len(inputs(wards)) <= len(when_paused) + 1
        codes = [entry["details"]["code"] for entry in wards.account(OURS) if entry["kind"] == "offer-refused"]
        assert codes and set(codes) == {"paused"}
        paused = {
            attempt.number
            for attempt in wards.attempts(run)
            for member in attempt.participation
            if member.client == OURS and member.outcome == "refused" and member.reason.startswith("paused")
        }
        assert max(paused) == ROUNDS
        assert (
            re.search(
                rf"all {ROUNDS} rounds|{ROUNDS} of {ROUNDS}", browser.run("document.getElementById('ran').innerText")
            )
            is None
        )
        sent = browser.run("document.getElementById('sent').innerText")
        assert "Masked, with noise" in sent and "Not masked" not in sent
        assert "Complete and unbroken" in browser.run("document.getElementById('checked').innerText")
        browser.run("document.getElementById('switch').click()")
        browser.until("document.getElementById('state-title')?.textContent.includes('Taking part')")
        assert not (directory / "paused").exists() and browser.said == []
    finally:
        browser.close()

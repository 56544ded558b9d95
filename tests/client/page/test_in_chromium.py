"""The page as its owner meets it: in a real browser, which asks nobody else for anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tacit.client.directory import AgentDirectory
from tacit.client.page.server import serve_page

from ...chromium import CHROMIUM, Chromium  # noqa: TID252 - tests are no package that could be named
from .owned import answered, asked, made

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
SHOWN = "document.getElementById('state') !== null && document.readyState === 'complete'"


@pytest.fixture
def owner(tmp_path: Path) -> AgentDirectory:
    return made(tmp_path / "ward-7")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    browser = Chromium(tmp_path / "profile")
    yield browser
    browser.close()


def state(browser: Chromium) -> str:
    return str(browser.run("document.getElementById('state-title').textContent.trim()"))


def test_an_owner_opens_the_page_reads_it_pauses_and_resumes(owner: AgentDirectory, browser: Chromium) -> None:
    with serve_page(owner.path, 0) as (address, link):
        browser.open(link)
        browser.until(SHOWN)
        assert "with=" not in browser.run("location.href")
        assert "length of stay" in browser.run("document.getElementById('ran').innerText")
        assert browser.run("document.cookie") == ""  # which no script can read
        browser.run("document.getElementById('switch').click()")
        browser.until("document.getElementById('state-title')?.textContent.includes('Paused')")
        assert owner.pause()
        browser.until(SHOWN)
        browser.run("document.getElementById('switch').click()")
        browser.until("document.getElementById('state-title')?.textContent.includes('Not running')")
        assert not owner.pause()
        browser.open(f"{browser.run('location.href')}messages")
        browser.until("document.querySelectorAll('tbody tr').length === 15")
        # Every request went to the page, and nothing that it forbids was tried.
        assert {urlsplit(asked).netloc for asked in browser.asked} == {urlsplit(address).netloc}
        assert browser.said == []


def test_the_keyboard_alone_pauses_the_agent(owner: AgentDirectory, browser: Chromium) -> None:
    with serve_page(owner.path, 0) as (_, link):
        browser.open(link)
        browser.until(SHOWN)
        browser.press("Tab")
        assert browser.run("document.activeElement.className") == "skip"
        for _ in range(20):
            if browser.run("document.activeElement.id") == "switch":
                break
            browser.press("Tab")
        assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        browser.press("Enter")
        browser.until("document.getElementById('state-title')?.textContent.includes('Paused')")
        assert owner.pause()


def test_the_page_shows_what_is_new_by_itself_and_leaves_what_was_opened_open(
    owner: AgentDirectory, browser: Chromium
) -> None:
    with serve_page(owner.path, 0) as (_, link):
        browser.open(link)
        browser.until(SHOWN)
        browser.run("document.querySelector('#ran details').open = true; document.getElementById('switch').focus()")
        with owner.journal() as journal:
            journal.audit.append("offer-accepted", **asked("run-3", 1, "sepsis"))
            answered(journal.audit, "run-3", 1)
            owner.pause.set(True)
            browser.until("document.getElementById('ran').innerText.includes('sepsis')")
            browser.until("document.getElementById('state').innerText.includes('Paused')")
        assert browser.run("document.querySelectorAll('#ran details[open]').length") == 1
        assert browser.run("document.activeElement.id") == "switch"
        # The form that came with the news works.
        browser.run("document.getElementById('switch').click()")
        deadline = time.monotonic() + 60
        while owner.pause():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_page_that_is_served_no_more_says_that_it_is_old(owner: AgentDirectory, browser: Chromium) -> None:
    with serve_page(owner.path, 0) as (_, link):
        browser.open(link)
        browser.until(SHOWN)
        assert browser.run("document.getElementById('stale').hidden")
    browser.until("!document.getElementById('stale').hidden")
    assert "What stands here is old" in browser.run("document.getElementById('stale').textContent")


@pytest.mark.parametrize("width", [390, 768, 1100])
def test_nothing_is_wider_than_the_screen_or_hidden_by_it(owner: AgentDirectory, browser: Chromium, width: int) -> None:
    with serve_page(owner.path, 0) as (_, link):
        browser.resize(width, 800)
        browser.open(link)
        browser.until(SHOWN)
        browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert browser.run("document.documentElement.scrollWidth") <= width


CONTRAST = """
(() => {
  const part = value => { const c = value / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let worst = 21;
  for (const element of document.querySelectorAll("main *, header *, footer *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("[hidden]") || !element.getClientRects().length) continue;
    const pair = [numbers(getComputedStyle(element).color), behind(element)];
    const [one, other] = pair.map(light).sort((a, b) => b - a);
    worst = Math.min(worst, (one + 0.05) / (other + 0.05));
  }
  return worst;
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_every_word_stands_out_from_what_is_behind_it(owner: AgentDirectory, tmp_path: Path, dark: bool) -> None:
    browser = Chromium(tmp_path / "profile", dark=dark)
    try:
        with serve_page(owner.path, 0) as (_, link):
            browser.open(link)
            browser.until(SHOWN)
            assert browser.run("matchMedia('(prefers-color-scheme: dark)').matches") is dark
            browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
            assert browser.run(CONTRAST) >= 4.5  # WCAG 2.2, level AA
    finally:
        browser.close()

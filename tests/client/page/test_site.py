"""What the page shows and does, and for whom: nothing without a link or for another site, and no stranger's HTML."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tacit.client.directory import AgentDirectory, init
from tacit.client.enrolled import ENROLMENT, read_enrolled
from tacit.client.page.door import Door, link_token
from tacit.client.page.site import HEADERS, Request, Response, Site
from tacit.client.page.view import Loop, View

from .owned import answered, asked, made

KEY = bytes(range(32))
HOST = "127.0.0.1:8437"


@dataclass
class Visitor:
    """A browser that has opened a link."""

    site: Site
    base: str = ""
    cookie: str = ""
    sent: dict[str, str] = field(default_factory=lambda: {"host": HOST})

    def enters(self) -> Response:
        answer = self.get("/open", f"with={link_token(KEY, NOW)}")
        found = re.fullmatch(
            r"(tacit-page=[^;]+); Path=([^;]+); HttpOnly; SameSite=Strict", answer.headers["Set-Cookie"]
        )
        assert found
        self.cookie, self.base = found[1], found[2]
        return answer

    def get(self, path: str, query: str = "", **headers: str) -> Response:
        return self.ask("GET", path, query, **headers)

    def ask(self, method: str, path: str, query: str = "", body: bytes = b"", **headers: str) -> Response:
        cookie = {"cookie": self.cookie} if self.cookie else {}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.site.answer(Request(method, path, query, {**self.sent, **cookie, **named}, body))

    def reads(self, name: str = "", query: str = "") -> str:
        answer = self.get(self.base + name, query)
        assert answer.status == 200, answer
        return answer.body.decode()

    def text(self, name: str = "", query: str = "") -> str:
        """Return the words of a page, without its markup."""
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", self.reads(name, query))).split())

    def presses(self, button: str, **headers: str) -> Response:
        page = self.reads()
        action = re.search(r'<form method="post" action="([^"]*)"', page)
        word = re.search(r'name="word" value="([^"]*)"', page)
        assert action and word and action[1] == self.base + button
        return self.ask("POST", action[1], body=f"word={word[1]}".encode(), **{"origin": f"http://{HOST}"} | headers)


NOW = 2_000_000_000.0


@pytest.fixture
def owner(tmp_path: Path) -> AgentDirectory:
    return made(tmp_path / "ward-7")


@pytest.fixture
def site(owner: AgentDirectory) -> Site:
    return Site(View(owner.path), Door(KEY, lambda: NOW))


@pytest.fixture
def visitor(site: Site) -> Visitor:
    visitor = Visitor(site)
    visitor.enters()
    return visitor


def test_the_page_tells_what_ran_what_left_what_was_refused_and_what_it_cost(visitor: Visitor) -> None:
    text = visitor.text()
    for words in (
        "With whom you take part Federation wards You are ward-7 Coordinator https://127.0.0.1:1",
        "length of stay ✓ Took part Your agent took part in all 2 rounds. Its last update that is known was added up "
        "with 3 others.",
        "triage ✕ Refused There is less noise than you ask for. Nothing of your data left for it.",
        "Decided by privacy.min_noise_multiplier in your policy.",
        "Masks yes, among 5 members; a sum has at least 4",
        "Noise 10 times what one member can change, made by the members together",
        "the coordinator has signed for 2 sums that your update is in it",
        "15 messages, 1.5 kB in all.",
        "Counts and sums",
        "Whatever it does not say is refused.",
        "Complete and unbroken",
        "Noise you can rely on 0 % used , epsilon 0 of 8",
        "whether your data took part at all",
        "one in 100,000 (delta)",
    ):
        assert words in text, f"{words}\n{text}"


def test_the_head_of_the_account_is_the_one_that_the_command_prints(visitor: Visitor, owner: AgentDirectory) -> None:
    with owner.journal() as journal:
        head = journal.audit.head
    assert head is not None and f"{head.counter}:{head.head.hex()}" in visitor.reads()


def test_the_page_asks_for_nothing_from_elsewhere(visitor: Visitor) -> None:
    for page in (visitor.reads(), visitor.reads("messages")):
        addresses = re.findall(r'(?:src|href|action)="([^"]*)"', page)
        assert all(address.startswith(("/", "#")) and not address.startswith("//") for address in addresses)
        assert "style=" not in page and not re.search(r"\son\w+=", page) and "<script>" not in page


def test_every_answer_forbids_all_that_the_page_does_not_need() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert HEADERS["Cache-Control"] == "no-store"


# Who may see it


ELSEWHERE = ["", "evil.example", "evil.example:8437", "127.0.0.1.evil.example", "127.0.0.1:8437@evil", "10.0.0.1:8437",
             "[::2]:8437", "127.0.0.1:8437:1", "localhost.", "127.0.0.1:"]  # fmt: skip


@pytest.mark.parametrize("host", ELSEWHERE)
def test_a_name_that_is_not_the_loopbacks_is_answered_nothing(visitor: Visitor, host: str) -> None:
    visitor.sent = {"host": host}
    for path in (visitor.base, "/open", "/page.css", "/"):
        assert visitor.get(path, f"with={link_token(KEY, NOW)}").status == 421
    assert b"ward-7" not in visitor.get(visitor.base).body


@pytest.mark.parametrize("host", ["127.0.0.1:8437", "localhost:9", "LOCALHOST:9", "[::1]:1", "127.0.0.1"])
def test_a_forwarded_port_is_fine(visitor: Visitor, host: str) -> None:
    visitor.sent = {"host": host}
    assert visitor.get(visitor.base).status == 200


def test_without_a_session_nothing_of_the_agent_is_shown_or_done(site: Site, owner: AgentDirectory) -> None:
    stranger = Visitor(site)
    base = f"/{Door(KEY).path}/"
    for path in ("/", base, f"{base}messages", "/anything", f"{base}../"):
        answer = stranger.get(path)
        assert answer.status == 403 and b"ward-7" not in answer.body and b"tacit agent page" in answer.body
        stranger.cookie = "tacit-page=AAAA"
    assert stranger.ask("POST", f"{base}pause", body=b"word=", origin=f"http://{HOST}").status == 403
    assert not owner.pause()


def test_a_link_opens_the_page_once(site: Site) -> None:
    first, second = Visitor(site), Visitor(site)
    query = f"with={link_token(KEY, NOW)}"
    assert first.get("/open", query).status == 200
    answer = second.get("/open", query)
    assert answer.status == 403 and "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("header", ["purpose", "sec_purpose"])
def test_a_browser_that_looks_ahead_does_not_use_the_link_up(site: Site, header: str) -> None:
    visitor = Visitor(site)
    query = f"with={link_token(KEY, NOW)}"
    assert visitor.get("/open", query, **{header: "prefetch"}).status == 503
    assert visitor.get("/open", query).status == 200


@pytest.mark.parametrize("query", ["", "with=", "with=x", "with=a&with=b", "&" * 50, "with=%ff"])
def test_what_is_no_link_opens_nothing(site: Site, query: str) -> None:
    assert Visitor(site).get("/open", query).status == 403


def test_a_cookie_that_cannot_be_read_is_none(visitor: Visitor) -> None:
    for cookie in ("tacit-page", "a=\x01; b", '"', "tacit-page=" + "A" * 5000, visitor.cookie + "A"):
        visitor.cookie = cookie
        assert visitor.get(visitor.base).status == 403


# Pausing


def test_pause_and_resume_work_at_once_and_outlive_the_page(visitor: Visitor, owner: AgentDirectory) -> None:
    answer = visitor.presses("pause")
    assert (answer.status, answer.headers["Location"]) == (303, visitor.base)
    assert owner.pause() and "Paused Offers are refused" in visitor.text()
    other = Visitor(Site(View(owner.path), Door(KEY, lambda: NOW)))
    other.enters()
    assert "Paused Offers are refused" in other.text()
    assert other.presses("resume").status == 303
    assert not owner.pause() and "Paused" not in visitor.text()
    assert [entry["kind"] for entry in entries(owner)][-2:] == ["paused", "resumed"]


def entries(owner: AgentDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in owner.account_lines()]


def test_an_agent_that_runs_is_paused_without_its_account(visitor: Visitor, owner: AgentDirectory) -> None:
    with owner.journal() as journal:
        before = journal.audit.head
        assert visitor.presses("pause").status == 303
        assert owner.pause() and journal.audit.head == before
        assert owner.pause.noted_in(journal.audit)()
        assert "You paused the agent." in visitor.text()


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": f"https://{HOST}"},
        {"origin": ""},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
    ],
)
def test_another_site_cannot_press_the_button(visitor: Visitor, owner: AgentDirectory, headers: dict[str, str]) -> None:
    assert visitor.presses("pause", **headers).status == 403
    assert not owner.pause()


def test_a_form_without_this_sessions_word_does_nothing(visitor: Visitor, site: Site, owner: AgentDirectory) -> None:
    other = Visitor(site)
    other.enters()
    word = re.search(r'name="word" value="([^"]*)"', other.reads())
    assert word
    for body in (b"", b"word=", b"word=x", f"word={word[1]}".encode(), b"\xff" * 100, b"word=a&word=b"):
        answer = visitor.ask("POST", f"{visitor.base}pause", body=body, origin=f"http://{HOST}")
        assert answer.status == 403
    assert not owner.pause()


def test_the_button_needs_a_form_and_not_an_address(visitor: Visitor, owner: AgentDirectory) -> None:
    assert visitor.get(f"{visitor.base}pause").status == 404
    assert visitor.ask("POST", visitor.base, origin=f"http://{HOST}").status == 405
    assert not owner.pause()


# What a stranger wrote

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">'


def test_what_a_coordinator_calls_things_is_shown_as_text_and_cut(visitor: Visitor, owner: AgentDirectory) -> None:
    with owner.journal() as journal:
        names = {"model": EVIL, "recipe": EVIL, "data": EVIL, "place": EVIL, "unit": EVIL}
        journal.audit.append("offer-accepted", **asked(EVIL, 1, EVIL + "x" * 400) | names, noise=2.0)
        answered(journal.audit, EVIL, 1)
        journal.audit.append("message-left", run=EVIL, round=1, attempt=0, what=EVIL, sha256=EVIL, bytes=1)
        journal.audit.append("offer-refused", **asked(EVIL, 2, EVIL), code="paused", reason=EVIL + "y" * 400)
        journal.audit.append("offer-refused", **asked("\u202e\x1b[31m", 2, "\u202e\x1b[31m"), code=EVIL, reason=EVIL)
    for page in (visitor.reads(), visitor.reads("messages")):
        assert "<script>alert" not in page and "<img" not in page and "&lt;script&gt;" in page
        assert "\u202e" not in page and "\x1b" not in page
        assert "x" * 100 not in page and "y" * 300 not in page


def test_an_entry_that_makes_no_sense_leaves_the_rest_readable(visitor: Visitor, owner: AgentDirectory) -> None:
    with owner.journal() as journal:
        journal.audit.append(
            "offer-accepted", run=5, name=None, model=True, rounds="x", noise="y", members=-1, masked=1
        )
        journal.audit.append("message-left", run=None, round="x", bytes="many", what=7, sha256=5)
        journal.audit.append("offer-refused")
    assert "length of stay" in visitor.text() and "Unknown" in visitor.text("messages")


# What is on the disk


def test_a_page_that_did_not_change_is_not_sent_again(visitor: Visitor, owner: AgentDirectory) -> None:
    tag = visitor.get(visitor.base).headers["ETag"]
    again = visitor.get(visitor.base, if_none_match=tag)
    assert (again.status, again.body) == (304, b"")
    visitor.presses("pause")
    assert visitor.get(visitor.base, if_none_match=tag).status == 200


def test_messages_are_shown_in_pages_with_their_whole_digests(visitor: Visitor, owner: AgentDirectory) -> None:
    with owner.journal() as journal:
        for number in range(3, 23):
            answered(journal.audit, "run-1", number)
    first = visitor.reads("messages")
    assert "115 messages, 11.5 kB" in visitor.text("messages")
    assert first.count('data-label="Number"') == 50 and "ef" * 32 in first and "cd" * 32 in first
    assert f'href="{visitor.base}messages?before=66"' in first and 'rel="prev"' not in first
    last = visitor.reads("messages", "before=16")
    assert last.count('data-label="Number"') == 15 and 'rel="next"' not in last
    assert f'href="{visitor.base}messages?before=66"' in last
    for strange in (
        "before=0",
        "before=-5",
        "before=x",
        "before=" + "9" * 40,
        "before=1&before=2",
        "before=" + "9" * 12,
    ):
        assert visitor.get(f"{visitor.base}messages", strange).status == 200


def test_a_broken_account_is_said_to_be_broken(visitor: Visitor, owner: AgentDirectory) -> None:
    visitor.reads()
    path = owner.path / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    text = visitor.text()
    assert "Something was changed, or is missing." in text and "Complete and unbroken" not in text
    assert "The account or a privacy ledger was changed" in text and "Write this down" not in text
    assert "All were checked" not in text


def test_a_broken_ledger_is_said_to_be_broken(visitor: Visitor, owner: AgentDirectory) -> None:
    path = owner.path / "ledgers" / "patients.client.ledger"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    text = visitor.text()
    assert "This ledger is not what your agent wrote." in text and "Complete and unbroken" not in text


def test_a_policy_that_was_changed_is_shown_with_the_word_that_it_does_not_hold_yet(
    visitor: Visitor, owner: AgentDirectory
) -> None:
    with owner.journal() as journal:
        journal.audit.append("policy-read", sha256=hashlib.sha256(owner.policy_text().encode()).hexdigest())
    assert "The policy was changed" not in visitor.text()
    owner.write_policy("[limits]\nmax_rounds = 7\n")
    text = visitor.text()
    assert "The policy was changed since the agent read it." in text and "A run has at most 7 rounds" in text
    assert "Your policy grants nothing to it any more" in text


def test_a_policy_that_cannot_be_read_is_named_and_the_rest_still_shown(
    visitor: Visitor, owner: AgentDirectory
) -> None:
    visitor.reads()
    (owner.path / "policy.toml").write_text("[nonsense")
    text = visitor.text()
    assert "cannot be read any more" in text and "length of stay" in text
    assert visitor.presses("pause").status == 303 and owner.pause()


def test_a_directory_that_cannot_be_read_at_all_says_so(owner: AgentDirectory) -> None:
    (owner.path / "policy.toml").write_text("[nonsense")
    visitor = Visitor(Site(View(owner.path), Door(KEY, lambda: NOW)))
    visitor.enters()
    assert "The agent's files cannot be read." in visitor.text()


def test_an_agent_that_is_no_member_and_has_no_data_says_so(tmp_path: Path) -> None:
    visitor = Visitor(Site(View(init(tmp_path / "new", "new").path), Door(KEY, lambda: NOW)))
    visitor.enters()
    text = visitor.text()
    for words in ("no member of a federation", "No data set is registered", "Nobody has asked", "Nothing has left",
                  "Nothing was refused", "Not running", "nothing: no recipe, model or code is approved"):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        (Loop(), "Taking part"),
        (Loop(busy=True), "Working"),
        (
            Loop(trouble="the coordinator cannot be reached: <b>"),
            "No connection the coordinator cannot be reached: <b>.",
        ),
    ],
)
def test_the_agents_own_loop_says_how_it_stands(owner: AgentDirectory, loop: Loop, words: str) -> None:
    visitor = Visitor(Site(View(owner.path, lambda: loop), Door(KEY, lambda: NOW)))
    visitor.enters()
    assert words in visitor.text() and "<b>" not in visitor.reads()


def test_an_agent_of_another_process_is_seen_to_run(visitor: Visitor, owner: AgentDirectory) -> None:
    assert "Not running" in visitor.text()
    with owner.journal():
        assert "Taking part" in visitor.text()


@pytest.mark.parametrize(("days", "words"), [(-1, "it has ended"), (5, "it ends soon"), (200, "")])
def test_the_end_of_a_certificate_is_announced(owner: AgentDirectory, days: float, words: str) -> None:
    enrolled = read_enrolled(owner.path / ENROLMENT, owner.identity)
    assert enrolled is not None
    now = enrolled.certificate.expires_at - days * 86400.0
    visitor = Visitor(Site(View(owner.path, None, lambda: now), Door(KEY, lambda: NOW)))
    visitor.enters()
    found = [warning for warning in ("it has ended", "it ends soon") if warning in visitor.text()]
    assert found == ([words] if words else [])

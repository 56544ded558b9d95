"""Everything that stands on the page at one moment, read from the agent's directory beside whoever works in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tacit.client.audit import AuditBroken
from tacit.client.directory import POLICY, REGISTER, AgentDirectory
from tacit.client.enrolled import ENROLMENT, Enrolled, read_enrolled
from tacit.client.journal import AUDIT, LEDGERS
from tacit.client.page import words
from tacit.client.page.account import Account
from tacit.client.page.budget import Purse, Spent
from tacit.client.page.story import Kind, Ran, text
from tacit.models.errors import InputError
from tacit.privacy.terms import Unit

RECENT = 8  # messages on the first page
PAGE_OF = 50  # messages on each further one
SHOWN_RUNS = 25
RENEWAL_DUE = 14 * 86400.0  # seconds before its end from which on a certificate is worth a warning


@dataclass(frozen=True)
class Loop:
    """What the agent's own process says of its loop.

    Attributes:
        trouble: why the coordinator is not reached; empty if it is.
        busy: whether a message is in hand.
    """

    trouble: str = ""
    busy: bool = False


@dataclass
class View:
    """The page's eyes on one directory; to be used by one thread at a time.

    Attributes:
        path: the agent's directory.
        loop: asks the agent in this process how it stands; None where it is another's, if there is one at all.
        now: seconds since 1970.
    """

    path: Path
    loop: Callable[[], Loop] | None = None
    now: Callable[[], float] = time.time
    account: Account = field(init=False)
    _directory: AgentDirectory | None = None
    _problem: str = ""
    _enrolled: Enrolled | None = None
    _purses: dict[tuple[str, Unit], Purse] = field(default_factory=dict)
    _policy_sha256: str = ""
    _seen: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Stand at the beginning of the account."""
        self.account = Account(self.path / AUDIT, self.now)

    def refresh(self) -> None:
        """Read what has changed since the last time."""
        if self._changed("files", (POLICY, REGISTER, "settings.toml", ENROLMENT)):
            self._read_files()
        self.account.refresh()
        if self._directory is None:
            return
        known = self._directory.ledgers()
        for key in known:
            if key not in self._purses:
                self._purses[key] = Purse(self.path, *key, self._directory.identity.public_key)
            names = [f"{LEDGERS}/{key[0]}.{key[1]}.{end}" for end in ("ledger", "anchors")]
            if self._changed(".".join(key), names):
                self._purses[key].refresh()
        for gone in self._purses.keys() - set(known):
            del self._purses[gone]

    def overview(self) -> dict[str, Any]:
        """Return what the first page shows."""
        directory, story, standing = self._directory, self.account.story, self.account.standing
        if directory is None:
            return {"problem": self._problem, "name": self.path.name}
        ran = sorted(story.runs.values(), key=lambda ran: ran.at, reverse=True)
        policy_in_force = not story.policy or story.policy == self._policy_sha256
        return {
            "problem": self._problem,
            "name": directory.settings.name,
            "state": self._state(directory),
            "paused": directory.pause(),
            "member": self._member(directory),
            "data": list(directory.register.sets),
            "runs": [self._run(one) for one in ran[:SHOWN_RUNS]],
            "more_runs": max(0, len(ran) - SHOWN_RUNS) + story.forgotten,
            "kinds": self._kinds(),
            "messages": self.messages(len(story.places) + 1, RECENT),
            "message_count": len(story.places),
            "byte_count": sum(sent.bytes for sent in story.sent.values()),
            "refusals": [
                {
                    "name": text(one.asked, "name") or one.run,
                    "refused": refused,
                    "clause": words.CLAUSES.get(refused.code, ""),
                }
                for one in ran
                for refused in sorted(one.refused.values(), key=lambda refused: -refused.at)
            ][:SHOWN_RUNS],
            "refusal_count": story.refusals.total(),
            "budgets": self._budgets(directory),
            "policy": directory.policy.explain(),
            "policy_in_force": policy_in_force,
            "uses": directory.settings.uses,
            "doings": [{"at": noted.at, "sentence": _doing(noted.kind, noted.details)} for noted in story.doings][::-1],
            "standing": standing,
            "entries": story.entries,
            "last": story.last,
            "purses": list(self._purses.values()),
            "is_whole": not standing.broken and not any(purse.broken for purse in self._purses.values()),
        }

    def messages(self, before: int, most: int = PAGE_OF) -> list[dict[str, Any]]:
        """Return messages that left, newest first, from below a number.

        Raises:
            InputError: the account cannot be read.
        """
        story, found = self.account.story, []
        for counter, noted in self.account.newest(before, most):
            details, kind = noted.details, story.kind_of(noted.details)
            ran = story.runs.get(text(details, "run"))
            found.append(
                {
                    "number": counter,
                    "at": noted.at,
                    "title": words.title(kind),
                    "protection": words.protection(kind),
                    "recipe": text(ran.asked, "name") if ran is not None else "",
                    "run": text(details, "run"),
                    "round": details.get("round"),
                    "bytes": details.get("bytes") if type(details.get("bytes")) is int else 0,
                    "sha256": text(details, "sha256"),
                    "vector_sha256": text(details, "vector_sha256"),
                }
            )
        return found

    def pause(self, paused: bool) -> None:
        """Pause the agent, or let it go on; on disk when this returns.

        Raises:
            InputError: that cannot be done.
        """
        if self._directory is None:
            raise InputError("cannot be used", where=str(self.path), right=self._problem)
        try:
            self._directory.set_pause(paused)
        except AuditBroken:
            return  # it holds; what is wrong with the account stands on the page

    # What is on the disk

    def _changed(self, what: str, names: tuple[str, ...] | list[str]) -> bool:
        """Say whether any of these files is another one, or has another length or time, than the last time."""
        stamp = tuple(map(_stamp, (self.path / name for name in names)))
        if self._seen.get(what) == stamp:
            return False
        self._seen[what] = stamp
        return True

    def _read_files(self) -> None:
        try:
            self._directory = AgentDirectory.open(self.path)
            self._policy_sha256 = self._directory.policy_sha256
            self._enrolled = read_enrolled(self.path / ENROLMENT, self._directory.identity)
            self._problem = ""
        except InputError as error:
            self._problem = str(error)  # what was read before goes on being shown

    # What is said of it

    def _state(self, directory: AgentDirectory) -> dict[str, str]:
        loop = self.loop() if self.loop is not None else None
        running = loop is not None or directory.is_running
        if directory.pause():
            sentence = "Offers are refused, and nothing that carries anything of your data leaves, until you resume."
            return {"state": "paused", "title": "Paused", "sentence": sentence}
        if not running:
            sentence = "No agent is running here, so nothing is asked of your data and nothing leaves."
            return {"state": "stopped", "title": "Not running", "sentence": sentence}
        if loop is not None and loop.trouble:
            return {
                "state": "trouble",
                "title": "No connection",
                "sentence": f"{loop.trouble[:200]}. It is tried again.",
            }
        if loop is not None and loop.busy:
            return {"state": "working", "title": "Working", "sentence": "Your agent is answering the coordinator."}
        return {"state": "waiting", "title": "Taking part", "sentence": "Your agent waits for the coordinator to ask."}

    def _member(self, directory: AgentDirectory) -> dict[str, Any] | None:
        if (enrolled := self._enrolled) is None:
            return None
        certificate, until = enrolled.certificate, float(enrolled.certificate.expires_at)
        left = until - self.now()
        return {
            "federation": enrolled.federation.name,
            "client": certificate.client,
            "organisation": certificate.organisation if certificate.organisation != certificate.client else "",
            "url": enrolled.url,
            "coordinator_key": enrolled.federation.coordinator_key.hex(),
            "since": self.account.story.enrolled.get(certificate.client),
            "until": until or None,
            "ended": bool(until) and left <= 0,
            "ending": bool(until) and 0 < left < RENEWAL_DUE,
        }

    def _run(self, ran: Ran) -> dict[str, Any]:
        return {
            "ran": ran,
            "name": text(ran.asked, "name") or ran.run,
            "data": text(ran.asked, "data"),
            "recipe": text(ran.asked, "recipe"),
            "model": text(ran.asked, "model"),
            "code": words.code_of(ran),
            "masks": words.masks_of(ran),
            "noise": words.noise_of(ran),
            "outcome": words.outcome(ran, self.now()),
            "spent": {
                f"{purse.dataset}, {spent.column}": spent.by_run[ran.run]
                for purse in self._purses.values()
                for spent in purse.spent
                if ran.run in spent.by_run
            },
        }

    def _kinds(self) -> list[dict[str, Any]]:
        def order(kind: Kind) -> tuple[bool, int, str]:
            known = list(words.MESSAGES)
            return kind.preparation, known.index(kind.what) if kind.what in known else len(known), kind.what

        return [
            {
                "title": words.title(kind),
                "purpose": words.purpose(kind),
                "protection": words.protection(kind),
                "sent": self.account.story.sent[kind],
            }
            for kind in sorted(self.account.story.sent, key=order)
        ]

    def _budgets(self, directory: AgentDirectory) -> list[dict[str, Any]]:
        found = []
        for (dataset, unit), purse in self._purses.items():
            row = directory.register.entries[dataset].row if dataset in directory.register.entries else ""
            allowed = {column: budget.epsilon for column, budget in directory.policy.budgets(unit).items()}
            found.append(
                {
                    "dataset": dataset,
                    "unit": unit,
                    "row": row,
                    "removed": dataset not in directory.register.sets,
                    "broken": purse.broken,
                    "columns": [_column(spent, allowed.get(spent.column), unit, row) for spent in purse.spent],
                }
            )
        spent_on = {dataset for dataset, _ in self._purses}
        found += [
            {"dataset": name, "unit": None, "row": entry.row, "removed": False, "broken": "", "columns": []}
            for name, entry in directory.register.sets.items()
            if name not in spent_on
        ]
        return found


def _column(spent: Spent, allowed: float | None, unit: Unit, row: str) -> dict[str, Any]:
    name, remark = words.column_words(spent.column)
    return {
        "spent": spent,
        "name": name,
        "remark": remark,
        "sentence": words.epsilon_sentence(spent.epsilon, spent.delta, unit, row),
        "percent": round(100 * spent.share),
        "narrower": allowed if allowed is not None and allowed < spent.granted else None,
        "withdrawn": allowed is None,
    }


def _doing(kind: str, details: Any) -> str:
    data = text(details, "data")
    return f"{words.DOINGS.get(kind, kind)}" + (f" ({data})" if data else "")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns

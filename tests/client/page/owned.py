"""A data owner's directory as an agent leaves it after two runs, one of which was refused."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dp_accounting import dp_event

from tacit.client.audit import AuditLog
from tacit.client.directory import AgentDirectory, init
from tacit.client.enrolled import ENROLMENT, Enrolled, write_enrolled
from tacit.client.register import new_data_set
from tacit.models.enrolment import Federation
from tacit.privacy.identity import Certificate, Identity
from tacit.privacy.ledger import Anchor
from tacit.privacy.records import Entry
from tacit.server.tls_authority import der, new_authority

COORDINATOR, AUTHORITY = Identity(b"\1" * 32), Identity(b"\2" * 32)
POLICY = """
[approved]
models = ["logistic"]
statistics = ["counts"]
[privacy]
epsilon_total = 8.0
accept_promised_noise = true
promised_epsilon_total = 20.0
min_noise_multiplier = 1.0
"""
NOISE = dp_event.GaussianDpEvent(10.0)


def asked(run: str, number: int, name: str, **more: Any) -> dict[str, Any]:
    """Return what an account says of a masked offer."""
    return {
        "run": run, "round": number, "attempt": 0, "recipe": "ab" * 32, "name": name, "model": "logistic",
        "code_sha256": None, "rounds": 2, "unit": "client", "masked": True, "offer": f"{number:064x}", "members": 5,
        "min_survivors": 4, "data": "patients", **more,
    }  # fmt: skip


def answered(audit: AuditLog, run: str, number: int) -> None:
    """Note the five messages of a masked round."""
    for what in ("advertise", "share", "mask", "sign", "unmask"):
        more = {"vector_sha256": "cd" * 32} if what == "mask" else {}
        audit.append(
            "message-left", run=run, round=number, attempt=0, what=what, sha256="ef" * 32, bytes=100, **more
        )  # fmt: skip


def made(path: Path) -> AgentDirectory:
    """Return an agent's directory after a preparation, two rounds, and a run that it refused."""
    rows = path.parent / "rows.csv"
    rows.write_text("a,y\n1,no\n2,yes\n")
    directory = init(path, "ward-7").write_policy(POLICY)
    directory = directory.add_data("patients", new_data_set(f"csv:{rows}", label="y", row="patient"), os.environ)
    certificate = Certificate(
        "ward-7", "ward-7", directory.identity.public_key, directory.identity.public_key, AUTHORITY.public_key,
        expires_at=int(time.time()) + 300 * 86400,
    )  # fmt: skip
    federation = Federation("wards", AUTHORITY.public_key, COORDINATOR.public_key, 400 * 86400, int(time.time()))
    trusted = der(new_authority("wards", datetime.now(UTC)).certificate)
    write_enrolled(path / ENROLMENT, Enrolled("https://127.0.0.1:1", (trusted,), federation, certificate))
    with directory.journal() as journal:
        audit = journal.audit
        audit.append("enrolled", name="ward-7", url="https://127.0.0.1:1")
        audit.append("offer-accepted", **asked("run-1", 0, "length of stay"))
        answered(audit, "run-1", 0)
        ledger = journal.ledger("patients", "client", directory.policy.budgets("client"))
        for number in (1, 2):
            audit.append("offer-accepted", **asked("run-1", number, "length of stay", noise=10.0, place="distributed"))
            entry = Entry("run-1", number, 0, bytes(32), "Gaussian", NOISE, 1e-5, "promised")
            anchor = ledger.reserve([entry])
            answered(audit, "run-1", number)
            ledger.spend(entry.key)
            audit.append("ledger-spent", run="run-1", round=number, attempt=0, survivors=4)
            ledger.countersigned(Anchor(anchor.counter, anchor.head))
            audit.append("receipt-accepted", offer=f"{number:064x}", counter=anchor.counter)
        refusal = {"code": "noise-floor", "reason": "noise-floor: noise multiplier 0.4 is below our 1"}
        audit.append("offer-refused", **asked("run-2", 1, "triage"), **refusal)
    return directory

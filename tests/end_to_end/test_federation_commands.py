"""A federation as people run one: a coordinator and five agents, each a command in a process of its own, over TLS."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tacit.server.population_ledger import read_ledger
from tacit.server.store import open_store

from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from .federation import (
    NAMES,
    PATIENCE_SECONDS,
    POLICY,
    RECIPE,
    Command,
    agent_directory,
    enrolled,
    finished,
    until,
    write_rows,
)


@pytest.mark.slow
def test_five_owners_and_a_coordinator_train_over_a_network_and_everybody_has_written_down_what_it_cost(
    tmp_path: Path, command: Command
) -> None:
    hub = tmp_path / "hub"
    finished(command("coordinator", "init", "hub", "--federation", "wards", "--port", str(free_port())))
    stricter = POLICY.replace("min_noise_multiplier = 1.0", "min_noise_multiplier = 9.0")
    owners = {name: agent_directory(tmp_path / name, stricter if name == NAMES[4] else POLICY) for name in NAMES}
    write_rows(tmp_path / "public.csv", 60, seed=99)
    (tmp_path / "ward.toml").write_text(RECIPE.format(public=tmp_path / "public.csv"))
    up = command("coordinator", "up", "--dir", "hub")
    log = next(tmp_path.glob("*-coordinator-up.log"))
    until(lambda: "listening on" in log.read_text())
    for name in NAMES:
        enrolled(hub, name, command)
        command("agent", "start", "--dir", name)
    finished(command("coordinator", "start", "ward.toml", "--dir", "hub"))
    until(lambda: "model       ward version 1" in log.read_text() or up.poll() is not None)
    with open_store(str(hub / "tacit.db"), create=False) as store:
        (run,) = store.list_runs()
        assert run.status == "finished" and run.rounds_committed == 3
        ledger = read_ledger(store, f"run/{run.run}", "client")
        assert ledger is not None and len(ledger.settled - ledger.voided) >= 3 and not ledger.waiting
        reasons = {
            member.client: member.reason
            for attempt in store.rounds(run.run)
            for member in attempt.participation
            if attempt.number and member.outcome == "refused"
        }
    # The owner who asks for more noise says so, and the others go on without it.
    assert set(reasons) == {NAMES[4]} and reasons[NAMES[4]].startswith("noise-floor")
    privacy = json.loads(next(hub.glob("runs/*/privacy.json")).read_text())
    assert privacy["unit"] == "client" and not privacy["simulated"] and 0 < privacy["epsilon"] < 50
    until(lambda: owners[NAMES[0]].ledger("patients", "client").unanchored <= 1)
    for name in NAMES[:4]:
        spent = owners[name].ledger("patients", "client").ledger
        assert spent.epsilon_committed("promised") > 0 == spent.epsilon_committed("assured")
    kinds = {json.loads(line)["kind"] for line in owners[NAMES[4]].account_lines()}
    assert "offer-refused" in kinds and "ledger-reserved" not in kinds
    # Whoever serves the coordinator's database has the model, and says what was promised.
    database = ("--db", str(hub / "tacit.db"), "--models", str(hub / "models-store"))
    command("serve", *database, "--port", "0", "--insecure-no-auth")
    said = next(tmp_path.glob("*-serve---db.log"))
    until(lambda: "listening on" in said.read_text())
    served = re.search(r"listening on (http://\S+)", said.read_text())
    assert served is not None
    answer = asked(f"{served[1]}/api/v1/models/ward/predict", {"inputs": [{"a": 2.0, "b": -1.0}]})
    assert answer["predictions"][0]["label"] in ("yes", "no") and answer["version"] == 1
    assert asked(f"{served[1]}/api/v1/models/ward/privacy") == privacy


def asked(url: str, body: object = None) -> Any:
    """Ask a service, and return what it says."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)

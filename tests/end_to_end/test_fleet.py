"""A federation of real processes over TLS trains under masks, and arrives where the same one within a process does."""

from __future__ import annotations

import csv
import datetime
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tacit.models.plan import Plan
from tacit.models.recipe import parse_recipe
from tacit.privacy.identity import Identity
from tacit.privacy.randomness import SeededRandomness
from tacit.privacy.secagg.loopback import Loopback
from tacit.server.checkpoints import RunState
from tacit.server.masking import Masking
from tacit.server.run import Run
from tacit.server.sampling import DrawnCohorts
from tacit.server.superlink import SuperLink, TlsFiles
from tacit.server.transport import Transport
from tacit.simulations.engine import FIRST_NODE, run_in_process

from ..bad_line import BadLine  # noqa: TID252 - tests are no package that could be named
from ..free_port import free_port  # noqa: TID252 - tests are no package that could be named
from .federation import PATIENCE_SECONDS
from .fleet_agents import agent_of
from .masked import RECIPE, SCHEMA, Memory, some_rows

NAMES = [f"clinic-{at}" for at in range(5)]
AGENTS = Path(__file__).with_name("fleet_agents.py")
OVERRIDES = ["population.clients=5", "training.rounds=3", "secure_aggregation.min_cohort=3", "training.quorum=0.6"]


@dataclass
class Place:
    """Where everybody's files are, and who everybody is."""

    path: Path
    parties: Loopback
    recipe: Any
    tls: TlsFiles
    authority: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def folder(self, name: str) -> Path:
        return self.path / name

    def masking(self) -> Masking:
        authorities = frozenset({self.parties.authority.public_key})
        return Masking(
            self.parties.coordinator, authorities, self.recipe.secure_aggregation, SeededRandomness(bytes(32))
        )

    def execute(self, transport: Transport, recorder: Memory, **more: Any) -> RunState:
        cohorts = DrawnCohorts("run", self.recipe.training, SeededRandomness(bytes(32)))
        return Run(
            "run", Plan(self.recipe, SCHEMA), transport, recorder, cohorts, masking=self.masking(), **more
        ).execute()

    def start(self, port: int, *names: str) -> dict[str, int]:
        """Start agents and return their process ids."""
        return self.start_over(dict.fromkeys(names, port))

    def start_over(self, ports: dict[str, int]) -> dict[str, int]:
        """Start agents that each have a port of their own."""
        arguments = [argument for name, port in ports.items() for argument in (str(port), str(self.folder(name)))]
        process = subprocess.Popen(
            [sys.executable, str(AGENTS), str(self.authority), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.started.append(process)
        assert process.stdout is not None
        return {name: int(process.stdout.readline()) for name in ports}

    def end(self) -> None:
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.communicate(timeout=PATIENCE_SECONDS)
        self.started.clear()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    torch.set_num_threads(1)
    parties = Loopback.generate(NAMES, SeededRandomness(os.urandom(32)))
    recipe = parse_recipe(RECIPE, OVERRIDES)
    tls, authority = certificates(tmp_path)
    made = Place(tmp_path, parties, recipe, tls, authority)
    rows = some_rows(200)
    for at, name in enumerate(NAMES):
        folder = made.folder(name)
        folder.mkdir()
        part = range(at, len(rows), len(NAMES))
        with (folder / "rows.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["a", "b", "c", "y"])
            columns = [rows.columns[column] for column in "abc"]
            writer.writerows([[*(column[row] for column in columns), ("no", "yes")[rows.labels[row]]] for row in part])
        member = {
            "name": name,
            "secret": parties.members[name].secret_bytes().hex(),
            "certificate": parties.certificates[name].encode().hex(),
            "coordinator": parties.coordinator.public_key.hex(),
            "authority": parties.authority.public_key.hex(),
            "min_cohort": 3,
        }
        (folder / "member.json").write_text(json.dumps(member))
    try:
        yield made
    finally:
        made.end()


def certificates(path: Path) -> tuple[TlsFiles, Path]:
    """Make an authority and a certificate of its for the loopback."""
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "server")}
    names = {name: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in keys}
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, extension: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder(
            issuer_name=names["authority"],
            subject_name=names[name],
            public_key=keys[name].public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(hours=1),
            not_valid_after=now + datetime.timedelta(hours=1),
        )
        made = builder.add_extension(extension, critical=True).sign(keys["authority"], hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    files = {name: path / f"{name}.pem" for name in ("authority", "server", "key")}
    files["authority"].write_bytes(certificate("authority", x509.BasicConstraints(True, 0)))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    files["server"].write_bytes(certificate("server", address))
    files["key"].write_bytes(
        keys["server"].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return TlsFiles(files["server"], files["key"]), files["authority"]


def within_a_process(place: Place) -> RunState:
    nodes = {FIRST_NODE + at: name for at, name in enumerate(NAMES)}
    agents = {node: agent_of(place.folder(name))[0] for node, name in nodes.items()}
    federation: Any = SimpleNamespace(agents=agents, names=nodes)
    return run_in_process(federation, lambda transport: place.execute(transport, Memory()))


def admit(link: SuperLink, members: dict[str, Identity], names: Sequence[str] = NAMES) -> None:
    for name in names:
        link.admit(members[name].public_key, name)


def wait_for(transport: Transport, names: Sequence[str]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while set(transport.clients()) != set(names):
        assert time.monotonic() < until, transport.clients()
        time.sleep(0.05)


def outcomes(recorder: Memory, number: int) -> dict[str, str]:
    (report,) = [report for report in recorder.reports if report.number == number]
    return {participant.client: participant.outcome for participant in report.participants}


def test_five_processes_arrive_bit_for_bit_where_one_does_and_speak_to_nobody_else(place: Place) -> None:
    expected = within_a_process(place)
    recorder = Memory()
    with SuperLink(tls=place.tls) as link, link.grid() as grid:
        admit(link, dict(place.parties.members))
        transport = link.transport(grid)
        place.start(link.address[1], *NAMES)
        wait_for(transport, NAMES)
        state = place.execute(transport, recorder)
    assert state.round == 3 and np.array_equal(state.vector, expected.vector)
    for number in range(4):
        assert outcomes(recorder, number) == dict.fromkeys(NAMES, "reported")
    for name in NAMES:
        hosts = set((place.folder(name) / "connections.txt").read_text().split())
        assert hosts == {"127.0.0.1"}


@pytest.mark.slow
def test_an_agent_that_is_killed_is_missed_at_once_and_joins_again_by_itself(place: Place) -> None:
    recorder = Memory()
    place.recipe = parse_recipe(RECIPE, [*OVERRIDES, "training.rounds=4"])
    victim, others = NAMES[0], NAMES[1:]
    with SuperLink(tls=place.tls) as link, link.grid() as grid:
        admit(link, dict(place.parties.members))
        transport = link.transport(grid)
        processes = place.start(link.address[1], *NAMES)
        wait_for(transport, NAMES)

        def between_rounds(report: Any) -> None:
            if report.number == 1:
                os.kill(processes[victim], signal.SIGKILL)
                wait_for(transport, others)
            if report.number == 2:
                place.start(link.address[1], victim)
                wait_for(transport, NAMES)

        place.execute(transport, recorder, on_round=between_rounds)
    assert outcomes(recorder, 1) == dict.fromkeys(NAMES, "reported")
    assert outcomes(recorder, 2) == dict.fromkeys(others, "reported")
    # It comes with the receipt of a round that the new process knows nothing of, and keeps it out of nothing.
    for number in (3, 4):
        assert outcomes(recorder, number) == dict.fromkeys(NAMES, "reported")


@pytest.mark.slow
def test_lines_that_break_in_every_phase_change_no_bit_of_the_model(place: Place) -> None:
    expected = within_a_process(place)
    recorder, lines = Memory(), list[BadLine]()
    with SuperLink(tls=place.tls) as link, link.grid() as grid:
        admit(link, dict(place.parties.members))
        transport = link.transport(grid)
        try:
            # A handshake takes about two kilobytes, a round of this model twenty.
            lines += [BadLine(link.address[1], seed, 24_000) for seed in range(len(NAMES))]
            place.start_over({name: line.port for name, line in zip(NAMES, lines, strict=True)})
            wait_for(transport, NAMES)
            state = place.execute(transport, recorder)
        finally:
            place.end()
            for line in lines:
                line.close()
    assert sum(line.broken for line in lines) >= 10
    for number in range(4):
        assert outcomes(recorder, number) == dict.fromkeys(NAMES, "reported")
    assert np.array_equal(state.vector, expected.vector)


@pytest.mark.slow
def test_a_coordinator_that_starts_again_goes_on_with_the_same_agents(place: Place) -> None:
    """The rounds before and after belong to one run; the agents' processes notice nothing but a pause."""
    expected = within_a_process(place)
    recorder = Memory()

    class Stopped(Exception):
        """The coordinator was stopped between two rounds."""

    def stop(report: Any) -> None:
        if report.number == 1:
            raise Stopped

    port = free_port()
    with SuperLink(port=port, tls=place.tls) as link, link.grid() as grid:
        admit(link, dict(place.parties.members))
        processes = place.start(port, *NAMES)
        wait_for(link.transport(grid), NAMES)
        with pytest.raises(Stopped):
            place.execute(link.transport(grid), recorder, on_round=stop)
    time.sleep(0.5)
    with SuperLink(port=port, tls=place.tls) as link, link.grid() as grid:
        admit(link, dict(place.parties.members))
        transport = link.transport(grid)
        wait_for(transport, NAMES)
        state = place.execute(transport, recorder)
    assert np.array_equal(state.vector, expected.vector)
    assert [report.number for report in recorder.reports if report.committed] == [0, 1, 2, 3]
    for process in processes.values():
        os.kill(process, 0)  # still the same ones

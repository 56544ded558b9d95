"""An agent that is a member of a federation, put together from its directory: ready to answer, round after round."""

from __future__ import annotations

import os
import time

import torch

from tacit.client.agent import Agent
from tacit.client.connection import Address, Connection
from tacit.client.consent import Consent
from tacit.client.directory import AgentDirectory
from tacit.client.enrolled import Enrolled, read_enrolled
from tacit.client.enrolment import refresh, renew, renewal_due
from tacit.client.fleet import Resident
from tacit.client.holdings import SourceHoldings
from tacit.client.journal import AgentJournal
from tacit.client.masked import Membership
from tacit.client.training import Workbench
from tacit.models.errors import InputError
from tacit.privacy.randomness import Randomness, SystemRandomness
from tacit.privacy.secagg.policy import Policy as RoundPolicy

ENROLMENT = "enrolment"


def enrolment_of(directory: AgentDirectory) -> Enrolled:
    """Return what an agent keeps of its enrolment.

    Raises:
        InputError: it is no member yet, or its certificate has ended.
    """
    enrolled = read_enrolled(directory.path / ENROLMENT, directory.identity)
    if enrolled is None:
        raise InputError(
            "is no member of a federation yet", where=f"agent {directory.path}", right="tacit agent enrol --token TOKEN"
        )
    return enrolled


def refreshed(directory: AgentDirectory, enrolled: Enrolled, *, insecure: bool = False) -> Enrolled:
    """Return the enrolment as the coordinator has it now, renewed where its certificate is soon to end.

    Args:
        directory: the agent's.
        enrolled: what it keeps so far.
        insecure: do without TLS, which only an address of the loopback may.

    Raises:
        Unreachable, TurnedAway: the coordinator cannot be asked, or says no; what is kept still holds.
    """
    proxy = directory.settings.proxy_address
    current = refresh(enrolled, proxy=proxy, insecure=insecure)
    if renewal_due(current, int(time.time())):
        current = renew(current, directory.identity, proxy=proxy, insecure=insecure)
    return current


def member(
    directory: AgentDirectory,
    enrolled: Enrolled,
    data: str,
    journal: AgentJournal,
    randomness: Randomness | None = None,
) -> Agent:
    """Return the agent of a directory over one of its data sets: its policy decides, its ledger pays.

    Secrets, roundings and noise are drawn from the operating system, unless a source is passed in.

    Raises:
        InputError: there is no such data set.
    """
    entry, policy = directory.register.find(data), directory.policy
    if directory.settings.threads:
        torch.set_num_threads(directory.settings.threads)
    # Own code runs only where the policy lists its hash, which is checked offer by offer before anything is built.
    bench = Workbench(own_code=bool(policy.approved.code), device=directory.settings.own_device)
    consent = Consent(
        journal, data, bench, policy, directory.budgets, time.time, paused=directory.pause.noted_in(journal.audit)
    )
    hiding = policy.secure_aggregation
    agent = Agent(enrolled.certificate.client, SourceHoldings(entry.source, os.environ), bench)
    agent.governed_by(consent)
    agent.join(
        Membership(
            directory.identity,
            enrolled.certificate,
            RoundPolicy(
                coordinator_key=enrolled.federation.coordinator_key,
                authority_keys=frozenset({enrolled.federation.authority_key}),
                pins=policy.pins,
                min_cohort=hiding.min_cohort,
                max_colluders=hiding.max_colluders,
                accept_regular_graph=hiding.accept_regular_graph,
            ),
            consent,
            randomness or SystemRandomness(),
            consent=consent,
        )
    )
    return agent


def resident(
    directory: AgentDirectory, enrolled: Enrolled, agent: Agent, journal: AgentJournal, *, insecure: bool = False
) -> Resident:
    """Return the loop that asks the coordinator for messages and has the agent answer them.

    It ends by itself once the journal can be written no more: whoever starts the agent again opens it anew.

    Args:
        directory: the agent's.
        enrolled: what it keeps of its enrolment.
        agent: answers.
        journal: the agent's.
        insecure: do without TLS.

    Raises:
        InputError: it is to do without TLS, and the coordinator is not at an address of the loopback.
    """
    host, port = enrolled.address
    address = Address(host, port, None if insecure else enrolled.tls, directory.settings.proxy_address)
    return Resident(lambda: Connection(address, directory.identity), agent, able=lambda: journal.usable)

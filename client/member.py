"""An agent that is a member of a federation, put together from its directory: ready to answer, round after round."""

from __future__ import annotations

import os
import time

import torch

from tacit.client.agent import Agent
from tacit.client.caps import caps
from tacit.client.connection import LARGEST_MESSAGE, Connection
from tacit.client.consent import Consent
from tacit.client.directory import AgentDirectory
from tacit.client.enrolled import Enrolled
from tacit.client.fleet import Resident
from tacit.client.holdings import SourceHoldings
from tacit.client.journal import AgentJournal
from tacit.client.masked import Membership
from tacit.client.narration import Narrated
from tacit.client.training import Workbench
from tacit.client.upkeep import Upkeep
from tacit.privacy.randomness import Randomness, SystemRandomness
from tacit.privacy.secagg.policy import Policy as RoundPolicy


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
    settings = directory.settings
    lent = caps(settings.memory_mb, settings.round_seconds)
    bench = Workbench(own_code=bool(policy.approved.code), device=settings.own_device, lent=lent)
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


def resident(directory: AgentDirectory, upkeep: Upkeep, agent: Agent, journal: AgentJournal) -> Resident:
    """Return the loop that asks the coordinator for messages and has the agent answer them.

    It ends by itself once the journal can be written no more: whoever starts the agent again opens it anew.

    Args:
        directory: the agent's.
        upkeep: knows where the coordinator is, and whom to trust for it.
        agent: answers.
        journal: the agent's.
    """
    largest = min(LARGEST_MESSAGE, directory.settings.memory_mb << 20 or LARGEST_MESSAGE)
    return Resident(
        lambda: Connection(upkeep.address, directory.identity, largest_message=largest),
        Narrated(agent),
        able=lambda: journal.usable,
    )

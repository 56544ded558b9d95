"""Enrol the agents of a simulation: generated identities, and otherwise the same code as in a deployment."""

from __future__ import annotations

import time
from collections.abc import Callable

from tacit.client.consent import Consent
from tacit.client.journal import AgentJournal
from tacit.client.ledger import Budgets
from tacit.client.masked import Membership
from tacit.models.noise import NoisePlan
from tacit.models.recipe import Recipe
from tacit.models.spending import run_budget
from tacit.privacy.codec import sha256
from tacit.privacy.identity import Identity, VerifiedSignatures
from tacit.privacy.randomness import Randomness, SeededRandomness
from tacit.privacy.secagg.keys import SharedAgreements
from tacit.privacy.secagg.loopback import Loopback
from tacit.privacy.secagg.offer import ELIDED
from tacit.privacy.secagg.policy import MemoryJournal, Policy
from tacit.server.masking import Masking
from tacit.simulations.federation import Federation


def in_memory(client: str, identity: Identity) -> AgentJournal:
    """Return a journal that ends with the process."""
    return AgentJournal.in_memory(identity)


def enrol(
    federation: Federation,
    recipe: Recipe,
    randomness: Randomness,
    journal_of: Callable[[str, Identity], AgentJournal] = in_memory,
) -> Masking:
    """Give every agent an identity and a certificate, and return the coordinator's part.

    Members live and die with the process, and so do their journals, unless `journal_of` says otherwise. In one process
    everybody may share what is known of good signatures, and every pair computes its secrets once; no result depends on
    either.
    """
    settings = recipe.secure_aggregation
    verify, agree = VerifiedSignatures(), SharedAgreements()
    parties = Loopback.generate(federation.names.values(), randomness, verify=verify)
    authority_keys = frozenset({parties.authority.public_key})

    def granted(noise: NoisePlan) -> Budgets:
        budget = run_budget(noise, noise.horizon)
        return {"assured": budget, "promised": budget}

    policy = Policy(
        coordinator_key=parties.coordinator.public_key,
        authority_keys=authority_keys,
        min_cohort=settings.min_cohort,
        accept_regular_graph=True,
    )
    rounding = SeededRandomness(sha256(f"rounding/{recipe.seed}".encode()))
    for agent in federation.agents.values():
        consent = None
        if recipe.privacy.unit != "none":
            journal = journal_of(agent.client, parties.members[agent.client])
            consent = Consent(
                journal, agent.client, agent.bench, policy=None, budgets=granted, now=time.time, hypothetical=True
            )
        agent.join(
            Membership(
                parties.members[agent.client],
                parties.certificates[agent.client],
                policy,
                consent or MemoryJournal(),
                randomness,
                verify,
                agree=agree,
                accept_elided=settings.mode == ELIDED,
                public_rounding=rounding,
                consent=consent,
            )
        )
    return Masking(parties.coordinator, authority_keys, settings, randomness, verify)

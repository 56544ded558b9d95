"""All parties of a federation in one process, with generated identities: for simulations, benchmarks and tests.

The state machines are those that run over the wire; only the transport is a function call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tacit.privacy import identity as identities
from tacit.privacy.codec import NO_DIGEST, Verify
from tacit.privacy.errors import PrivacyError
from tacit.privacy.identity import Certificate, Identity
from tacit.privacy.randomness import Randomness
from tacit.privacy.secagg.client import ClientRound
from tacit.privacy.secagg.offer import Offer
from tacit.privacy.secagg.policy import Journal, MemoryJournal, Policy
from tacit.privacy.secagg.progress import Phase
from tacit.privacy.secagg.server import EXPECTED, ServerRound

Lost = Callable[[Phase, str], bool]


@dataclass(frozen=True)
class Loopback:
    """A coordinator and certified members, each with its own identity.

    Attributes:
        coordinator: the coordinator's identity.
        authority: the enrolment authority's.
        members: the members' identities by name.
        certificates: the members' certificates by name.
        randomness: where all keys come from; labels keep the members' draws apart.
        verify: how signatures are verified; parties in one process may share a `VerifiedSignatures`.
    """

    coordinator: Identity
    authority: Identity
    members: Mapping[str, Identity]
    certificates: Mapping[str, Certificate]
    randomness: Randomness
    verify: Verify = identities.verify

    @classmethod
    def generate(
        cls, names: Iterable[str], randomness: Randomness, *, organisations: int = 1, verify: Verify = identities.verify
    ) -> Loopback:
        """Make identities and certificates; members are dealt to so many organisations in turn."""
        authority = Identity.generate(randomness, "authority")
        owners = [Identity.generate(randomness, f"organisation-{at}") for at in range(organisations)]
        members = {name: Identity.generate(randomness, f"member-{name}") for name in names}
        certificates = {}
        for at, (name, member) in enumerate(members.items()):
            owner = owners[at % organisations]
            plain = Certificate(
                client=name,
                organisation=f"organisation-{at % organisations}",
                subject_key=member.public_key,
                organisation_key=owner.public_key,
                authority_key=authority.public_key,
                serial=at,
            )
            certificates[name] = plain.endorsed(owner).certified(authority)
        return cls(
            coordinator=Identity.generate(randomness, "coordinator"),
            authority=authority,
            members=MappingProxyType(members),
            certificates=MappingProxyType(certificates),
            randomness=randomness,
            verify=verify,
        )

    def policy(self) -> Policy:
        """Return the policy that asks for no more than the protocol itself."""
        return Policy(
            coordinator_key=self.coordinator.public_key,
            authority_keys=frozenset({self.authority.public_key}),
            min_cohort=2,
            accept_regular_graph=True,
        )

    def client(
        self,
        name: str,
        *,
        model_digest: bytes = NO_DIGEST,
        policy: Policy | None = None,
        journal: Journal | None = None,
        threads: int = 1,
        verify: Verify | None = None,
    ) -> ClientRound:
        """Return a member that waits for an offer; what is not given is taken from the federation."""
        return ClientRound(
            self.members[name],
            self.certificates[name],
            policy or self.policy(),
            journal or MemoryJournal(),
            self.randomness,
            model_digest=model_digest,
            now=0,
            threads=threads,
            verify=verify or self.verify,
        )

    def server(self, offer: Offer, *, threads: int = 1) -> ServerRound:
        """Return the coordinator with an offer to all members."""
        return ServerRound(
            offer,
            self.coordinator,
            tuple(self.members),
            authority_keys=frozenset({self.authority.public_key}),
            now=0,
            threads=threads,
            verify=self.verify,
        )


def exchange(server: ServerRound, clients: Mapping[str, ClientRound], lost: Lost) -> dict[str, PrivacyError]:
    """Carry one exchange: every request that is not lost, and its reply.

    Args:
        server: the coordinator.
        clients: the members.
        lost: whether a member's answer in a phase never arrives; it is not even asked then.

    Returns:
        What each member or the coordinator refused with, by the member's name.
    """
    refused: dict[str, PrivacyError] = {}
    for name in sorted(server.waiting):
        if lost(server.phase, name):
            continue
        try:
            reply = clients[name].receive(server.request(name))
            server.receive(name, reply.message, reply.vector)
        except PrivacyError as error:
            refused[name] = error
    return refused


def run(server: ServerRound, clients: Mapping[str, ClientRound], give: Callable[[str], None], lost: Lost) -> Phase:
    """Carry all exchanges to the end of the attempt and return how it ended.

    Args:
        server: the coordinator.
        clients: the members.
        give: called with a member's name before it must contribute.
        lost: see `exchange`.
    """
    while server.phase in EXPECTED:
        if server.phase is Phase.MASK:
            for name in sorted(server.waiting):
                if not lost(server.phase, name):
                    give(name)
        exchange(server, clients, lost)
        server.close_phase()
    return server.phase

"""What secure aggregation costs: beside the bare cipher, beside the bounds set for it, and beside Flower's.

Processor time of all threads, one process, one thread for masks; the clock on the wall would measure the neighbours on
the machine. Vectors are random and stay in memory; identities and certificates are made beforehand.
"""

from __future__ import annotations

import resource
import statistics
import time
import tracemalloc
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.identity import VerifiedSignatures, verify
from tacit.privacy.randomness import Keystream, SystemRandomness
from tacit.privacy.secagg import Block, Layout, Offer, Phase, ServerRound
from tacit.privacy.secagg import masks as mask
from tacit.privacy.secagg.encoding import Values, pack, packed_bytes, reduce, zeros
from tacit.privacy.secagg.loopback import Loopback
from tacit.privacy.secagg.server import EXPECTED
from tacit.simulations.benchmarks.figure import Figure, absent, cpu_seconds, median_ratio

MILLION = 1_000_000
CLIP = 8.0
MASK_BOUND, CLIENT_BOUND, SERVER_BOUND, UPLOAD_BOUND = 1.5, 0.25, 1.5, 3.2e6


@dataclass
class Spent:
    """What one round took.

    Attributes:
        clients: processor seconds of each member, over the whole protocol.
        server: processor seconds of the coordinator.
        uploads: bytes that each member sent.
        error: the largest difference of the sum from the true one, in steps of the grid a member.
    """

    clients: dict[str, float] = field(default_factory=dict)
    server: float = 0.0
    uploads: dict[str, int] = field(default_factory=dict)
    error: float = 0.0

    @property
    def total(self) -> float:
        """Processor seconds of all parties."""
        return self.server + sum(self.clients.values())


def vectors_of(members: int, parameters: int) -> NDArray[np.float32]:
    """Return one row of updates a member."""
    return np.random.default_rng(0).normal(0.0, 0.2, (members, parameters)).astype(np.float32)


def tacit_round(
    vectors: NDArray[np.float32],
    gone: frozenset[int],
    *,
    colluders: int,
    dropout: float,
    graph: str = "complete",
    remember: bool = False,
) -> Spent:
    """Run one round in memory, without noise and rotation, and return what it took.

    Args:
        vectors: one row a member, shape `(members, parameters)`.
        gone: the members whose masked vector never arrives, so that their keys must be recovered.
        colluders: c.
        dropout: the fraction that may vanish.
        graph: `complete` or `regular`.
        remember: whether members share what signatures were found good; only to get through a large round in one
            process. The first member checks everything itself in any case.
    """
    members, parameters = vectors.shape
    names = [f"member-{at:05d}" for at in range(members)]
    shared = VerifiedSignatures(most=50 * members) if remember else verify
    scene = Loopback.generate(names, SystemRandomness(), verify=shared)
    layout = Layout((Block("update", parameters, CLIP, 2000.0), Block("weight", 1, 1.0, 1000.0)))
    offer = Offer.plan(
        run="benchmark",
        round=0,
        attempt=0,
        model_digest=bytes(32),
        recipe_digest=bytes(32),
        layout=layout,
        rotation_seed=bytes(32),
        cohort=members,
        min_cohort=2,
        colluders=colluders,
        dropout=dropout,
        graph=graph,
    )
    spent = Spent(dict.fromkeys(names, 0.0), 0.0, dict.fromkeys(names, 0))
    clients = {name: scene.client(name, verify=verify if name == names[0] else shared) for name in names}
    servers: list[ServerRound] = []
    spent.server += cpu_seconds(lambda: servers.append(scene.server(offer)))
    server = servers[0]
    silent = {names[at] for at in gone}
    while server.phase in EXPECTED:
        start = time.process_time()
        requests = server.requests()
        spent.server += time.process_time() - start
        for name, request in requests.items():
            if server.phase is Phase.MASK and name in silent:
                continue
            client, row = clients[name], vectors[names.index(name)]
            values: Values = {"update": row, "weight": np.ones(1)}
            start = time.process_time()
            if server.phase is Phase.MASK:
                client.contribute(values, ledger_head=bytes(32), ledger_counter=0)
            reply = client.receive(request)
            spent.clients[name] += time.process_time() - start
            spent.uploads[name] += len(reply.message) + (0 if reply.vector is None else reply.vector.nbytes)
            start = time.process_time()
            server.receive(name, reply.message, reply.vector)
            spent.server += time.process_time() - start
        spent.server += cpu_seconds(server.close_phase)
    kept = [at for at in range(members) if at not in gone]
    true = np.zeros(parameters)
    for at in kept:
        true += np.clip(vectors[at], -CLIP, CLIP)
    spent.error = float(np.abs(server.result().blocks["update"] - true).max() * 2000.0 / len(kept))
    if spent.error > 1.0 or server.result().blocks["weight"][0] != len(kept):
        raise RuntimeError("the sum is wrong; its cost is of no interest")
    return spent


def mask_figures(repetitions: int) -> list[Figure]:
    """Measure masking against the cipher, and packing against copying."""
    total = zeros(MILLION, 24)
    keys = [SystemRandomness().key("mask", at) for at in range(99)]
    masks = [mask.Mask(key, 1 if at % 2 else -1) for at, key in enumerate(keys)]
    blank = np.empty(1 << 16, dtype=np.uint32)

    def keystreams() -> None:
        for key in keys:
            stream = Keystream(key)
            for at in range(0, MILLION, blank.size):
                stream.update_into(blank[: min(blank.size, MILLION - at)])

    ratio, masking, cipher = median_ratio(lambda: mask.apply(masks, total), keystreams, repetitions)
    words = reduce(np.arange(MILLION, dtype=np.int64), 24)
    packing, packed, copied = median_ratio(
        lambda: [pack(words, 24) for _ in range(20)], lambda: [words.copy() for _ in range(20)], repetitions
    )
    per_word = 1e9 / (99 * MILLION)
    return [
        Figure(
            "mask_ratio_to_keystream",
            ratio,
            "ratio",
            f"bound {MASK_BOUND}, goal 1.25",
            MASK_BOUND,
            f"99 masks of 1M parameters: {masking * per_word:.3f} ns a parameter and mask; "
            f"bare AES-256-CTR over the same bytes {cipher * per_word:.3f} ns",
        ),
        Figure(
            "pack_ratio_to_copy",
            packing,
            "ratio",
            "copying the 4-byte words",
            1.0,
            f"24 bits: {packed / 20 * 1e9 / MILLION:.3f} ns a parameter, a copy {copied / 20 * 1e9 / MILLION:.3f}",
        ),
    ]


def hundred_members() -> list[Figure]:
    """Measure 100 members with a million parameters, 10 of which drop out after the shares."""
    spent = tacit_round(vectors_of(100, MILLION), frozenset(range(0, 100, 10)), colluders=10, dropout=0.2)
    ends = [seconds for name, seconds in spent.clients.items() if not name.endswith("0")]
    uploads = max(spent.uploads.values())
    detail = "complete graph, 10 colluders, t = 56, no noise, no rotation"
    return [
        Figure(
            "client_cpu_seconds_n100_d1m",
            statistics.median(ends),
            "s",
            "bound",
            CLIENT_BOUND,
            f"median of those that stayed to the end, whole protocol; largest {max(ends):.3f}; {detail}",
        ),
        Figure(
            "server_cpu_seconds_n100_d1m_drop10",
            spent.server,
            "s",
            "bound",
            SERVER_BOUND,
            f"10 dropped out after sharing; {detail}",
        ),
        Figure(
            "upload_bytes_n100_d1m",
            uploads,
            "B",
            "bound",
            UPLOAD_BOUND,
            f"all five answers; the packed vector alone is {packed_bytes(MILLION + 1, 24)}",
        ),
    ]


def server_memory() -> list[Figure]:
    """Measure what the coordinator allocates at its peak, for few and for many members."""
    parameters = 300_000
    peaks = {members: _server_peak(members, parameters) for members in (10, 40)}
    return [
        Figure(
            "server_peak_vectors_n40",
            peaks[40] / (4 * parameters),
            "vectors",
            "the same with 10 members",
            peaks[10] / (4 * parameters),
            "largest allocation over the round in units of one vector of 4-byte words; flat in the number of members",
        )
    ]


def _server_peak(members: int, parameters: int) -> int:
    """Return the most bytes that the coordinator held at once over a round, the members' own left out."""
    names = [f"member-{at:05d}" for at in range(members)]
    scene = Loopback.generate(names, SystemRandomness(), verify=VerifiedSignatures())
    offer = Offer.plan(
        run="benchmark",
        round=0,
        attempt=0,
        model_digest=bytes(32),
        recipe_digest=bytes(32),
        layout=Layout((Block("update", parameters, CLIP, 2000.0),)),
        rotation_seed=bytes(32),
        cohort=members,
        min_cohort=2,
        colluders=1,
        dropout=0.2,
    )
    clients = {name: scene.client(name) for name in names}
    update = vectors_of(1, parameters)[0]
    tracemalloc.start()
    server = scene.server(offer)
    held, peak = tracemalloc.get_traced_memory()[0], 0
    while server.phase in EXPECTED:
        for name, request in server.requests().items():
            if server.phase is Phase.MASK:
                clients[name].contribute({"update": update}, ledger_head=bytes(32), ledger_counter=0)
            reply = clients[name].receive(request)
            tracemalloc.reset_peak()
            start = tracemalloc.get_traced_memory()[0]
            server.receive(name, reply.message, reply.vector)
            current, highest = tracemalloc.get_traced_memory()
            peak = max(peak, held + highest - start)
            held += current - start
        tracemalloc.reset_peak()
        start = tracemalloc.get_traced_memory()[0]
        server.close_phase()
        current, highest = tracemalloc.get_traced_memory()
        peak = max(peak, held + highest - start)
        held += current - start
    tracemalloc.stop()
    return peak


def against_flower(members: int, repetitions: int) -> list[Figure]:
    """Measure all parties' processor time of one round against Flower's, with and without drop-outs, alternating."""
    found = []
    for drops in (0, members // 10):
        suffix = f"_drop{drops}" if drops else ""
        name = f"flower_cpu_over_tacit_n{members}_d1m{suffix}"
        try:
            from tacit.simulations.benchmarks.flower_secagg import flower_round
        except ImportError as error:
            found.append(absent(name, "ratio", f"Flower cannot be imported ({error.name})"))
            continue
        vectors, gone = vectors_of(members, MILLION), frozenset(range(drops))
        threshold = (members + members // 10) // 2 + 1
        ours, theirs = [], []
        for _ in range(repetitions):
            ours.append(tacit_round(vectors, gone, colluders=members // 10, dropout=0.2).total)
            seconds, mean = flower_round(vectors, gone, threshold, CLIP)
            if np.abs(mean - np.delete(vectors, list(gone), axis=0).mean(axis=0)).max() > 1e-3:
                raise RuntimeError("Flower's mean is wrong; its cost is of no interest")
            theirs.append(seconds)
        ratio = statistics.median(their / our for their, our in zip(theirs, ours, strict=True))
        found.append(
            Figure(
                name,
                ratio,
                "ratio",
                "bound 5, goal 10",
                5.0,
                f"processor seconds of all parties: Flower 1.41 SecAgg+ {statistics.median(theirs):.2f}, "
                f"Tacit {statistics.median(ours):.2f}; {drops} drop-outs, all are neighbours, threshold {threshold}",
            )
        )
    return found


def thousand_members() -> list[Figure]:
    """Measure 1000 members with 100,000 parameters on a regular graph, 50 of which drop out."""
    start = time.monotonic()
    spent = tacit_round(
        vectors_of(1000, 100_000),
        frozenset(range(7, 1000, 20)),
        colluders=20,
        dropout=0.05,
        graph="regular",
        remember=True,
    )
    wall = time.monotonic() - start
    detail = "regular graph, 20 colluders, 50 drop-outs after sharing, degree 40, t = 27"
    name = "n1000_d100k_regular"
    return [
        Figure(f"client_cpu_seconds_{name}", spent.clients["member-00000"], "s", detail=f"checks all itself; {detail}"),
        Figure(f"server_cpu_seconds_{name}", spent.server, "s", detail=detail),
        Figure(f"upload_bytes_{name}", max(spent.uploads.values()), "B", detail=detail),
        Figure(
            f"wall_seconds_{name}",
            wall,
            "s",
            detail="all parties in one process on one thread; the members share what signatures they found good",
        ),
        Figure(
            f"peak_mb_{name}",
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "MB",
            detail="the whole process, with the 400 MB of all members' vectors",
        ),
    ]


def figures(quick: bool) -> list[Figure]:
    """Return the figures of secure aggregation; `quick` leaves out Flower and the 1000 members."""
    found = [*mask_figures(3 if quick else 9), *hundred_members(), *server_memory()]
    # Imported here, for it brings PyTorch and Flower, whose threads and memory the figures above do without.
    from tacit.simulations.benchmarks.masked_round import masked_over_plain

    found.append(masked_over_plain(rounds=2 if quick else 4, repetitions=1 if quick else 3))
    if quick:
        return found
    return [*found, *against_flower(20, 3), *against_flower(50, 1), *thousand_members()]

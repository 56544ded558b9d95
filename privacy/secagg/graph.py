"""Who shares masks with whom, and how many it takes to unmask: neighbours, degree k and threshold t.

Up to a few hundred members everybody is everybody's neighbour (Bonawitz et al. 2017). Above, each member has k
neighbours on a circle in random order, a permuted Harary graph (Bell et al. 2020, section 3 and algorithm 2). Members
compute k and t themselves, from the roster that they checked; a number claimed by the coordinator is never used.

All arithmetic is on integers, so that every member on every machine gets the same k and t.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import comb, perm

from tacit.privacy.codec import sha256
from tacit.privacy.randomness import Keystream
from tacit.privacy.secagg.layout import Infeasible

COMPLETE = "complete"
REGULAR = "regular"
GRAPHS = (COMPLETE, REGULAR)

SIGMA = 40  # bits of security: 2^-40 is added to delta where the regular graph is used
ETA = 20  # bits of correctness: a round fails by bad luck of the graph with a probability of 2^-20
MILLION = 1_000_000
MAX_COMPLETE = 512  # a complete graph has n^2 shares to carry; above, the regular one is the only choice
MAX_DEGREE = 1024
COMPLETE_GRAPH_MOST = 200  # members; above, a regular graph keeps the work of each member nearly flat

_PERMUTATION_LABEL = b"tacit/secagg/1/permutation\0"


def graph_of(cohort: int) -> str:
    """Return who shares masks with whom: everybody with everybody, unless there are too many for that."""
    return COMPLETE if cohort <= COMPLETE_GRAPH_MOST else REGULAR


def allowed_dropouts(members: int, dropout_ppm: int) -> int:
    """Return `floor(delta n)` for a fraction in millionths."""
    return members * dropout_ppm // MILLION


def least_survivors(cohort: int, min_cohort: int, dropout_ppm: int) -> int:
    """Return `U_min = max(min_cohort, ceil((1 - delta) cohort))`."""
    return max(min_cohort, cohort - allowed_dropouts(cohort, dropout_ppm))


def complete_threshold(members: int, colluders: int) -> int:
    """Return the smallest t with `t > (n + c) / 2`.

    Two sets of survivors cannot both collect t signatures then: that would take 2t signers, but an honest member signs
    one set only, so there are at most `n + c`. The same holds for the two kinds of share of one member.
    """
    return (members + colluders) // 2 + 1


@lru_cache(maxsize=256)
def regular_parameters(
    members: int, colluders: int, dropouts: int, survivors: int, *, semi_malicious: bool = True
) -> tuple[int, int] | None:
    """Return the smallest even degree k and the threshold t of a k-regular graph, or None if there are none.

    With `C` colluders, `D` drop-outs and `S` survivors among n, sigma = 40 and eta = 20, for k = 2, 4, ...:

    (a) the honest survivors stay connected: `n (n-k-1) / 2 * Binom(n-k, C+D-k) / Binom(n, C+D) < 2^-(sigma+1)`, or
        `k > C + D`;
    (b) `t1 = min {x: P[Hyp(n, C, k) > x] <= 2^-(sigma+1) / n}`: nobody has more colluding neighbours;
    (c) `t2 = max {x: P[Hyp(n, S, k) <= x - 1] < 2^-eta / n}`: everybody keeps as many surviving neighbours;
    (d) against a server that may tell members different things, `t1 <- ceil((t1 + k - 1.25) / 2)`; `t = t1 + 1`;
        accept k if `t2 > t1`.

    Bell et al. 2020, theorems 3.10 and 4.9 with lemma 3.7.

    Args:
        members: n.
        colluders: C.
        dropouts: D.
        survivors: S.
        semi_malicious: whether (d) raises the threshold; without it the server is only curious.
    """
    gone = colluders + dropouts
    for degree in range(2, min(members, MAX_DEGREE + 1), 2):
        disconnected = members * (members - degree - 1) * perm(gone, degree) << (SIGMA + 1)
        if degree <= gone and disconnected >= 2 * perm(members, degree):
            continue
        total = comb(members, degree)
        colluding = _hypergeometric(members, colluders, degree)
        above = 0
        lowest = degree
        while lowest > 0 and (above + colluding[lowest]) * members << (SIGMA + 1) <= total:
            above += colluding[lowest]
            lowest -= 1
        below = list(accumulate(_hypergeometric(members, survivors, degree)))
        kept = 0
        while kept < degree and below[kept] * members << ETA < total:
            kept += 1
        if semi_malicious:
            lowest = -((-(4 * (lowest + degree) - 5)) // 8)  # ceil((t1 + k - 1.25) / 2)
        if kept > lowest:
            return degree, lowest + 1
    return None


def _hypergeometric(members: int, marked: int, drawn: int) -> list[int]:
    """Return `Binom(n, drawn) P[Hyp(n, marked, drawn) = x]` for x = 0 to `drawn`, each from the one before."""
    counts = [0] * (drawn + 1)
    first = max(0, drawn - (members - marked))
    last = min(marked, drawn)
    if first > last:
        return counts
    counts[first] = comb(marked, first) * comb(members - marked, drawn - first)
    for x in range(first, last):
        counts[x + 1] = counts[x] * ((marked - x) * (drawn - x)) // ((x + 1) * (members - marked - drawn + x + 1))
    return counts


@dataclass(frozen=True)
class Topology:
    """Who is whose neighbour, and the threshold.

    Attributes:
        members: n.
        threshold: t, the shares that recover a secret and the signatures that release shares.
        circle: for each position in the roster its neighbours, on a regular graph; None on the complete one.
    """

    members: int
    threshold: int
    circle: tuple[tuple[int, ...], ...] | None = None

    def neighbours(self, member: int) -> tuple[int, ...]:
        """Return the positions of a member's neighbours, in rising order."""
        if self.circle is not None:
            return self.circle[member]
        return (*range(member), *range(member + 1, self.members))


def topology(graph: str, members: int, colluders: int, dropout_ppm: int, transcript: bytes) -> Topology:
    """Return who is whose neighbour among `members`, and the threshold.

    Args:
        graph: `complete` or `regular`.
        members: n, the size of the checked roster.
        colluders: c, the absolute number that may collude with the coordinator.
        dropout_ppm: the fraction that may vanish, in millionths.
        transcript: T1, which orders the circle of the regular graph.

    Raises:
        Infeasible: no threshold is both safe and reachable with so few members.
    """
    if graph == COMPLETE:
        threshold = complete_threshold(members, colluders)
        if threshold > members - 1:
            raise Infeasible(f"{members} members cannot hold out against {colluders} colluders", "ask more clients")
        return Topology(members, threshold)
    dropouts = allowed_dropouts(members, dropout_ppm)
    found = regular_parameters(members, colluders, dropouts, members - dropouts)
    if found is None:
        raise Infeasible(f"no regular graph over {members} members is safe", "use graph complete or ask more clients")
    degree, threshold = found
    return Topology(members, threshold, regular_neighbours(members, degree, transcript))


def check_feasible(graph: str, cohort: int, min_survivors: int, colluders: int, dropout_ppm: int) -> None:
    """Refuse, before anything is offered, numbers under which a full cohort could not lose what it is said to lose.

    Raises:
        Infeasible: with the number to change.
    """
    dropouts = allowed_dropouts(cohort, dropout_ppm)
    if min_survivors < colluders + 2:
        raise Infeasible(
            f"{min_survivors} survivors with {colluders} colluders leave fewer than two honest members",
            f"raise min_cohort to at least {colluders + 2} or lower colluding",
        )
    if min_survivors > cohort:
        raise Infeasible(
            f"{min_survivors} of {cohort} clients must survive", f"raise cohort to at least {min_survivors}"
        )
    if graph == COMPLETE and cohort > MAX_COMPLETE:
        raise Infeasible(f"a complete graph has at most {MAX_COMPLETE} members", "use graph regular, or sub-cohorts")
    if graph == REGULAR:
        if regular_parameters(cohort, colluders, dropouts, cohort - dropouts) is None:
            raise Infeasible(
                f"no regular graph over {cohort} clients withstands {colluders} colluders and {dropouts} drop-outs",
                "lower dropout or colluding, or use graph complete",
            )
        return
    threshold = complete_threshold(cohort, colluders)
    if threshold > cohort - 1 - dropouts:
        bearable = cohort - 1 - threshold
        raise Infeasible(
            f"{threshold} others must keep every secret, which {dropouts} drop-outs of {cohort} clients do not leave",
            f"lower dropout to at most {bearable / cohort:.3g}, or lower colluding"
            if bearable >= 0
            else "raise cohort, or lower colluding",
        )


def regular_neighbours(members: int, degree: int, transcript: bytes) -> tuple[tuple[int, ...], ...]:
    """Return the neighbours on a circle of all members in an order that follows from the transcript.

    Each member is joined to the `degree / 2` next ones on either side (Bell et al. 2020, algorithm 2). The order is a
    Fisher-Yates permutation whose numbers are drawn by rejection from the keystream of the transcript: uniform if the
    transcript is, which is why it may be ground by whoever chooses the roster.
    """
    order = permutation(members, sha256(_PERMUTATION_LABEL, transcript))
    neighbours: list[tuple[int, ...]] = [()] * members
    for place, member in enumerate(order):
        near = (order[(place + step) % members] for step in range(-degree // 2, degree // 2 + 1) if step)
        neighbours[member] = tuple(sorted(near))
    return tuple(neighbours)


def permutation(count: int, key: bytes) -> list[int]:
    """Return a permutation of `0 .. count - 1`, uniform if the key is (Fisher and Yates, with rejection sampling)."""
    stream = Keystream(key)
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        limit = (1 << 32) - (1 << 32) % (last + 1)
        word = int(stream.words32(1)[0])
        while word >= limit:
            word = int(stream.words32(1)[0])
        other = word % (last + 1)
        order[last], order[other] = order[other], order[last]
    return order

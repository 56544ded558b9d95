"""The offer: everything about one attempt of a round that its members must agree on, signed by the coordinator.

H(Offer) salts every key of the attempt, so two members that were offered different things share nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tacit.privacy.codec import DIGEST_BYTES, NO_DIGEST, Reader, SignedMessage, Writer, check_lengths, sha256
from tacit.privacy.identity import check_name
from tacit.privacy.secagg.graph import (
    COMPLETE,
    GRAPHS,
    MILLION,
    check_feasible,
    least_survivors,
)
from tacit.privacy.secagg.keys import LABEL, label_bytes
from tacit.privacy.secagg.layout import BITS, Infeasible, Layout, WideBlock, bits_for, fits

MAX_MEMBERS = 10_000
MAX_ROUND = 1 << 48
REAL = "real"
ELIDED = "elided"
MODES = (REAL, ELIDED)


@dataclass(frozen=True)
class Offer(SignedMessage):
    """Round 0 of the protocol: what the coordinator asks of a cohort.

    `Offer.plan` computes what follows from the rest. A member that reads one knows that it is consistent: construction
    fails where sums could wrap or where no threshold is both safe and reachable.

    Attributes:
        run: the run's name.
        round: the round within the run.
        attempt: the attempt at the round; each has fresh keys.
        model_digest: SHA-256 of the global vector that updates are relative to.
        recipe_digest: SHA-256 of the recipe.
        layout: the blocks of the vector.
        dimension: the number of its coordinates, as the layout has it.
        bits: B, bits of a coordinate.
        rotation_seed: 32 public bytes that the rotation follows from.
        mechanism: the name of the privacy mechanism; `none` if there is none.
        mechanism_parameters: its numbers by name, in the order of the names.
        noise_variance: variance of the noise that each member adds to each coordinate, in squared grid steps.
        cohort: how many members the round has at most; it may be offered to more, of whom the first take part.
        min_cohort: the fewest members that it starts with.
        min_survivors: U_min, the fewest members that are ever summed.
        colluders: c, how many members may collude with the coordinator: an absolute number, because a fraction of a
            set that the coordinator chooses means nothing.
        dropout_ppm: the fraction of the cohort that may vanish, in millionths.
        graph: `complete` or `regular`.
        last_receipt: digest of the receipt of the last round of the run that was completed; zeros if there is none.
        mode: `real`, or `elided` for a simulation without masks, which no member of a federation accepts.
    """

    TAG = 0x01
    LIMIT = 1 << 16
    LABEL = LABEL + "offer"

    run: str
    round: int
    attempt: int
    model_digest: bytes
    recipe_digest: bytes
    layout: Layout
    dimension: int
    bits: int
    rotation_seed: bytes
    mechanism: str
    mechanism_parameters: tuple[tuple[str, float], ...]
    noise_variance: float
    cohort: int
    min_cohort: int
    min_survivors: int
    colluders: int
    dropout_ppm: int
    graph: str
    last_receipt: bytes
    mode: str

    def __post_init__(self) -> None:
        """Refuse offers that no honest coordinator would make."""
        check_name(self.run)
        check_name(self.mechanism)
        check_lengths(
            DIGEST_BYTES,
            model_digest=self.model_digest,
            recipe_digest=self.recipe_digest,
            rotation_seed=self.rotation_seed,
            last_receipt=self.last_receipt,
        )
        if not (0 <= self.round < MAX_ROUND and 0 <= self.attempt < 1 << 32):
            raise ValueError("round and attempt count from 0")
        names = [name for name, _ in self.mechanism_parameters]
        if names != sorted(set(names)) or len(names) > 64:
            raise ValueError("mechanism parameters are in the order of their names, each once, at most 64")
        for name, value in self.mechanism_parameters:
            check_name(name)
            if not math.isfinite(value):
                raise ValueError(f"mechanism parameter {name} is not finite")
        if self.graph not in GRAPHS or self.mode not in MODES or self.bits not in BITS:
            raise ValueError("graph, mode or bits are none of those known")
        self._check_numbers()

    def _check_numbers(self) -> None:
        if self.dimension != self.layout.dimension:
            raise ValueError(f"{self.dimension} coordinates are not those of the layout")
        if not 0.0 <= self.noise_variance < 2.0**64:
            raise ValueError("the variance of the noise is negative or out of range")
        if self.noise_variance and any(isinstance(block, WideBlock) for block in self.layout.blocks):
            raise ValueError("wide blocks carry no noise; offer them by themselves")
        if not (2 <= self.cohort <= MAX_MEMBERS and 0 <= self.colluders and 0 <= self.dropout_ppm < MILLION):
            raise ValueError("cohort, colluders or dropout are out of range")
        if not 2 <= self.min_cohort <= self.cohort:
            raise ValueError(f"min_cohort {self.min_cohort} is not within 2 and the cohort of {self.cohort}")
        if self.min_survivors < least_survivors(self.cohort, self.min_cohort, self.dropout_ppm):
            raise ValueError(f"{self.min_survivors} survivors are fewer than min_cohort and dropout allow")
        try:
            check_feasible(self.graph, self.cohort, self.min_survivors, self.colluders, self.dropout_ppm)
        except Infeasible as error:
            raise ValueError(str(error)) from None
        if not fits(self.layout, self.cohort, self.noise_variance, self.bits):
            raise ValueError(f"sums over {self.cohort} clients could wrap in {self.bits} bits")

    @classmethod
    def plan(
        cls,
        *,
        run: str,
        round: int,
        attempt: int,
        model_digest: bytes,
        recipe_digest: bytes,
        layout: Layout,
        rotation_seed: bytes,
        cohort: int,
        min_cohort: int,
        colluders: int,
        dropout: float,
        mechanism: str = "none",
        mechanism_parameters: tuple[tuple[str, float], ...] = (),
        noise_variance: float = 0.0,
        graph: str = COMPLETE,
        last_receipt: bytes = NO_DIGEST,
        mode: str = REAL,
    ) -> Offer:
        """Return an unsigned offer with the bits, the dimension and U_min that follow from the rest.

        Args:
            run: see the class; so are the others that are not listed here.
            round: the round within the run.
            attempt: the attempt at the round.
            model_digest: SHA-256 of the global vector.
            recipe_digest: SHA-256 of the recipe.
            layout: the blocks of the vector.
            rotation_seed: 32 public bytes.
            cohort: how many clients it is offered to.
            min_cohort: the fewest members that it starts with.
            colluders: c, an absolute number.
            dropout: the fraction of the cohort that may vanish, in `[0, 1)`.
            mechanism: the name of the privacy mechanism.
            mechanism_parameters: its numbers by name.
            noise_variance: variance of each member's noise in squared grid steps.
            graph: `complete` or `regular`.
            last_receipt: digest of the last receipt of the run.
            mode: `real` or `elided`.

        Raises:
            Infeasible: the numbers cannot be both safe and completed; the error says which to change.
            ValueError: a value is of the wrong form.
        """
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout {dropout!r} is no fraction in [0, 1)")
        if min_cohort > cohort:
            raise Infeasible(f"min_cohort is {min_cohort}, the cohort {cohort}", "raise cohort or lower min_cohort")
        dropout_ppm = int(dropout * MILLION + 0.5)
        min_survivors = least_survivors(cohort, min_cohort, dropout_ppm)
        check_feasible(graph, cohort, min_survivors, colluders, dropout_ppm)
        return cls(
            run=run,
            round=round,
            attempt=attempt,
            model_digest=model_digest,
            recipe_digest=recipe_digest,
            layout=layout,
            dimension=layout.dimension,
            bits=bits_for(layout, cohort, noise_variance),
            rotation_seed=rotation_seed,
            mechanism=mechanism,
            mechanism_parameters=tuple(sorted(mechanism_parameters)),
            noise_variance=noise_variance,
            cohort=cohort,
            min_cohort=min_cohort,
            min_survivors=min_survivors,
            colluders=colluders,
            dropout_ppm=dropout_ppm,
            graph=graph,
            last_receipt=last_receipt,
            mode=mode,
        )

    @property
    def digest(self) -> bytes:
        """H(Offer): the digest of what the coordinator signed."""
        return sha256(label_bytes("offer-digest"), self.body())

    @property
    def attempt_key(self) -> tuple[str, int, int]:
        """What an attempt is known by: `(run, round, attempt)`."""
        return self.run, self.round, self.attempt

    def write_body(self, out: Writer) -> None:
        """Append every field but the signature."""
        out.text(self.run).u64(self.round).u32(self.attempt)
        out.fixed(self.model_digest).fixed(self.recipe_digest)
        self.layout.write(out)
        out.u32(self.dimension).u8(self.bits).fixed(self.rotation_seed).text(self.mechanism)
        out.list(self.mechanism_parameters, lambda parameter: out.text(parameter[0]).f64(parameter[1]))
        out.f64(self.noise_variance)
        out.u32(self.cohort).u32(self.min_cohort).u32(self.min_survivors).u32(self.colluders).u32(self.dropout_ppm)
        out.text(self.graph).fixed(self.last_receipt).text(self.mode)

    @classmethod
    def read(cls, source: Reader) -> Offer:
        """Take every field."""
        return cls(
            run=source.text(64),
            round=source.u64(),
            attempt=source.u32(),
            model_digest=source.digest(),
            recipe_digest=source.digest(),
            layout=Layout.read(source),
            dimension=source.u32(),
            bits=source.u8(),
            rotation_seed=source.digest(),
            mechanism=source.text(64),
            mechanism_parameters=source.list(lambda: (source.text(64), source.f64()), most=64, item_bytes=12),
            noise_variance=source.f64(),
            cohort=source.u32(),
            min_cohort=source.u32(),
            min_survivors=source.u32(),
            colluders=source.u32(),
            dropout_ppm=source.u32(),
            graph=source.text(16),
            last_receipt=source.digest(),
            mode=source.text(16),
            signature=source.signature(),
        )

"""What the store refuses or cannot do, apart from bad input."""

from tacit.models.errors import Unavailable


class RoundAlreadyCommitted(Exception):
    """This round was committed before; nothing was applied again.

    Args:
        run: the run.
        number: the round's number.
        attempt: the attempt that is in the store.
    """

    def __init__(self, run: str, number: int, attempt: int) -> None:
        """Keep the three values for the caller."""
        self.run = run
        self.number = number
        self.attempt = attempt
        super().__init__(f"run {run}: round {number}, attempt {attempt} is committed already")


class LedgerConflict(Exception):
    """A ledger has moved on since it was read; nothing was written.

    Args:
        population: whose ledger it is.
        unit: its unit.
        counter: the number of the record that was to be the next one.
    """

    def __init__(self, population: str, unit: str, counter: int) -> None:
        """Keep the three values for the caller."""
        self.population = population
        self.unit = unit
        self.counter = counter
        super().__init__(
            f"the privacy ledger of population {population} (unit {unit}) is written by somebody else:"
            f" record {counter} is not the next one"
        )


class EnrolmentConflict(Exception):
    """An invitation, a name or a key was taken, or a client has changed, since it was read; nothing was written."""


class StoreUnavailable(Unavailable):
    """The database cannot be used now: locked, full, unreachable; the same store works again once it can be.

    Nothing of the transaction was applied, or, where a connection broke in the very moment of the commit, all of it:
    whoever tries again finds that out, as a round that is committed already or a record that is not the next one.
    """

"""The errors of the privacy layer: who erred, and what cannot be granted."""

import math


class PrivacyError(Exception):
    """A request that privacy forbids or that privacy code does not understand; every error here is one.

    The text is one line, fit to print: it never carries a secret, a key, a share or a row of data.
    """


class BudgetExceeded(PrivacyError):
    """An event would spend more privacy than the budget still holds; nothing was spent.

    Args:
        requested: what the budget would stand at with the event, in epsilon.
        budget: what it may stand at, in epsilon.
        what: whose budget it is, in a few words.
    """

    def __init__(self, requested: float, budget: float, *, what: str = "privacy budget") -> None:
        """Keep the two values for the caller that reports the refusal."""
        self.requested = requested
        self.budget = budget
        self.what = what
        super().__init__(f"{what}: epsilon {requested:.6g} would exceed the {budget:.6g} that was granted")


class BudgetTooLarge(BudgetExceeded):
    """A budget is so large that it can vouch for nothing: how far a sampler's errors reach grows with e^epsilon.

    Args:
        most: the largest budget that could pay for what was asked, in epsilon.
        budget: what was granted, in epsilon.
        what: whose budget it is, in a few words.
    """

    def __init__(self, most: float, budget: float, *, what: str = "privacy budget") -> None:
        """Keep the values for the caller that reports the refusal."""
        super().__init__(math.inf, budget, what=what)
        self.most = most
        self.args = (
            f"{what}: noise is not drawn exactly enough for the epsilon {budget:g} that was granted, but for at most"
            f" {most:.4g}",
        )


class LocalProtocolError(PrivacyError):
    """We were about to break the protocol ourselves: a call out of order, or input that cannot be sent.

    Nothing was sent and no state has changed.
    """


class RemoteProtocolError(PrivacyError):
    """The peer broke the protocol; its message is dropped and the reason recorded.

    Args:
        reason: a stable word for machines, in kebab case (`bad-signature`, `duplicate`, `wrong-length`, ...).
        detail: one sentence for people, without secrets.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        """Keep the reason beside the text."""
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}" if detail else reason)

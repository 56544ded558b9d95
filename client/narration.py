"""What an agent's log says of its work: in which runs it takes part, and what it refuses."""

from __future__ import annotations

import logging

from tacit.client.fleet import Handler
from tacit.models.messages import ELIDED_ACTIONS, PLAIN_ACTIONS, RECEIPT_ACTION, Instruction, Reply

_LOG = logging.getLogger(__name__)
LONGEST_REASON = 300  # characters
GIVES = (*PLAIN_ACTIONS, "mask", *ELIDED_ACTIONS)  # the steps in which something of the data leaves, protected or not


class Narrated:
    """A handler whose log has a line for each run that it takes part in, and for each new reason why it does not.

    What is answered the same way again has no second line: a coordinator asks each attempt at a round anew.
    """

    def __init__(self, handler: Handler) -> None:
        """Begin with nothing told."""
        self._handler = handler
        self._told: tuple[str, str] = ("", "")

    def handle(self, instruction: Instruction) -> Reply:
        """Return the handler's answer."""
        reply = self._handler.handle(instruction)
        went_well = reply.outcome == "ok"
        told = (instruction.run, "" if went_well else reply.reason)
        # What precedes an input may go well in a round that is refused all the same.
        matters = instruction.action in GIVES if went_well else instruction.action != RECEIPT_ACTION
        if matters and told != self._told:
            self._told = told
            run = _plain(instruction.run)
            if went_well:
                _LOG.info("takes part in %s, round %d", run, instruction.round)
            else:
                _LOG.warning("%s in %s, round %d: %s", reply.outcome, run, instruction.round, _plain(reply.reason))
        return reply


def _plain(text: str) -> str:
    """Return a stranger's text on one line, and no longer than a line."""
    return "".join(character if character.isprintable() else " " for character in text[:LONGEST_REASON])

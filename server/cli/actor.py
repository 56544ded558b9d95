"""Who a command acts for, as the audit log writes it."""

from __future__ import annotations

import getpass


def actor() -> str:
    """Return `command:USER`, or `command` where the user has no name, as in some containers."""
    try:
        return f"command:{getpass.getuser()}"
    except (KeyError, OSError):
        return "command"

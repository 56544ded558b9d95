"""The one error for what a person gave and that cannot be used, and the one for what cannot be used right now."""


class InputError(ValueError):
    """Something that a person gave is wrong; the text is one line, fit to print.

    Args:
        what: what is wrong, in a few words, without secrets and without rows of data.
        where: the file, line, column, key or address that it was found at.
        right: what would be accepted instead.
    """

    def __init__(self, what: str, *, where: str = "", right: str = "") -> None:
        """Join the three parts to `where: what; right`."""
        self.what = what
        self.where = where
        self.right = right
        text = f"{where}: {what}" if where else what
        super().__init__(f"{text}; {right}" if right else text)


class Unavailable(Exception):
    """Something outside, as a database, cannot be used now, through no fault of what was asked; one line, to print."""


class Unwritable(InputError):
    """A disk that is full or cannot be written to; when there is room again, the same can be done again."""

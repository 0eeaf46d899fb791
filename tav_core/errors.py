"""The one kind of error that is meant for the user's eyes."""


class TavError(ValueError):
    """A wrong input, or a run that cannot go on; the message is one sentence: what came, what is needed, what to do."""


def need(condition: bool, name: str, got: object, needed: str) -> None:
    """Raises TavError for a setting that is out of its range."""
    if not condition:
        raise TavError(f"{name} must be {needed}; got {got!r}.")

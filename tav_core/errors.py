"""The one kind of error that is meant for the user's eyes."""


class TavError(ValueError):
    """A wrong input, or a run that cannot go on; the message is one sentence: what came, what is needed, what to do."""

"""The two exceptions whose message is all that the command line prints."""


class InputError(ValueError):
    """A value given by the user cannot be used; the message names it, what was expected and what to do. Status 2."""


class StoppedError(RuntimeError):
    """Training cannot go on; the message says at which step, why and what to do. Status 1."""

"""The one exception for wrong input: the command line prints its message alone and exits with status 2."""


class InputError(ValueError):
    """A value given by the user cannot be used; the message names it, what was expected and what to do."""

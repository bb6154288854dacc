"""The errors that a user can mend: each names the thing that is wrong and the way out."""


class DpgError(ValueError):
    """Base of every error meant for the user; the command line prints it without a traceback."""

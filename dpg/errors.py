"""The errors that a user can mend: each names the thing that is wrong and the way out."""


class DpgError(ValueError):
    """Base of every error meant for the user; the command line prints it without a traceback.

    Attributes:
        exit_status: of the command line.
    """

    exit_status = 2

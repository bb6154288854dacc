"""The errors that a user can fix: each says what is wrong and what to do."""


class DpgError(ValueError):
    """Base of every error for the user; the command line prints it without a traceback.

    Attributes:
        exit_status: the command's exit status after this error.
    """

    exit_status = 2

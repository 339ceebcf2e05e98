"""The one class of error that the command line turns into one line and exit code 2."""


class UserError(Exception):
    """A mistake that the caller can mend: the message is one line that says what was given and what is allowed."""

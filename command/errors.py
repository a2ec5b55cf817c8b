"""Errors that a person can mend."""


class UserError(Exception):
    """Something that a person can mend; the message says what was wrong, where, and what to do, in a line or two.

    Commands print it and end with code 2 (see command.console).
    """


def in_words(error: BaseException) -> str:
    """What a person is told of an error: the message of a UserError; of any other, which nobody expected, its name before that."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


class OptionError(UserError, ValueError):
    """A command-line option that cannot work; the message says which and what to do."""

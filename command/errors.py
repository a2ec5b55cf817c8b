"""Errors that a person can mend."""


class UserError(Exception):
    """Something that a person can mend; the message says what was wrong, where, and what to do, in a line or two.

    Commands print it and end with code 2 (see command.console). `traceback` is that of an error behind it which may be a fault of
    the program instead, "" where there is none (see command.unexpected).
    """

    traceback = ""


class OptionError(UserError, ValueError):
    """A command-line option that cannot work; the message says which and what to do."""

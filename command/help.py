"""What `--help` and `--help_all` show: the common options within two screens, and all of them.

An option that few people need is added with rare=True, to a parser or to a group of it:

    group.add_argument("--max_outage", rare=True, ...)
"""

import argparse
import sys
from collections.abc import Sequence

from command.provenance import version_and_commit

_WIDEST_NAME = 23  # of an option with its value that has its help beside it, such as --nudging_model MODEL


class _Options(argparse._ActionsContainer):
    """Adds options that may be rare, whose help ends with their default."""

    def add_argument(self, *names, rare: bool = False, **how) -> argparse.Action:
        """See argparse; a rare option is shown by --help_all alone."""
        action = super().add_argument(*names, **how)
        action.rare = rare
        if action.help is not argparse.SUPPRESS and says_something(action.default):
            action.help = _with_default(action.help or "", action.default)
        return action


class _Group(_Options, argparse._ArgumentGroup):
    """A group of options."""


class HelpfulParser(_Options, argparse.ArgumentParser):
    """A parser whose --help shows the common options, --help_all every one, and --version the program's version.

    Args:
        without_options: what is said, with exit code 2, to a person who gives nothing at all; None: where something must be given,
            what the command is for.
        more_epilog: what --help_all says at the end instead of the epilog; None: the same.
    """

    def __init__(self, *args, without_options: str | None = None, more_epilog: str | None = None, **how):
        super().__init__(*args, **how, add_help=False)
        self._without_options, self._more_epilog = without_options, more_epilog
        self._help_group = show = self.add_argument_group("help")
        show.add_argument("-h", "--help", rare=True, action=_Show, help="show the common options")
        show.add_argument("--help_all", rare=True, action=_Show, everything=True, help="show all options")
        show.add_argument("--version", rare=True, action=_ShowVersion, help="show the version and the commit")

    def add_argument_group(self, *args, **how) -> argparse._ArgumentGroup:
        """See argparse."""
        group = _Group(self, *args, **how)
        self._action_groups.append(group)
        return group

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """See argparse."""
        if not (sys.argv[1:] if args is None else args):
            if self._without_options is not None:
                self.exit(2, f"{self._without_options.strip()}\n")
            if any(action.required and action.nargs != "*" for action in self._actions):
                formatter = self._get_formatter()
                formatter.add_usage(self._short_usage(), [], [])
                formatter.add_text(self.description)
                formatter.add_text(f"{self.prog} --help describes the options")
                self.exit(2, formatter.format_help())
        return super().parse_known_args(args, namespace)

    def format_usage(self) -> str:
        """The command line in short: what must be given, and [options] for all that may."""
        formatter = self._get_formatter()
        formatter.add_usage(self._short_usage(), [], [])
        return formatter.format_help()

    def format_help(self, everything: bool = False) -> str:
        """The help of the common options, or of every one."""
        formatter = self._get_formatter()
        formatter.add_usage(self._short_usage(), [], [])
        formatter.add_text(self.description)
        for group in sorted(self._action_groups, key=lambda group: group is self._help_group):
            if shown := [action for action in group._group_actions if everything or not _is_rare(action)]:
                formatter.start_section(group.title)
                formatter.add_text(group.description)
                formatter.add_arguments(shown)
                formatter.end_section()
        formatter.add_text(self._more_epilog or self.epilog if everything else self.epilog)
        text = formatter.format_help()
        return text if everything else text + self._more()

    def _get_formatter(self) -> argparse.HelpFormatter:
        formatter = super()._get_formatter()
        formatter._max_help_position = _WIDEST_NAME + 4
        return formatter

    def _more(self) -> str:
        """Where the rare options are described: the last lines of --help; "" if there are none."""
        groups = {
            group: [one for one in group._group_actions if _is_rare(one) and one.help is not argparse.SUPPRESS]
            for group in self._action_groups
            if group is not self._help_group
        }
        if not (number := sum(map(len, groups.values()))):
            return ""
        loose = [
            one.option_strings[0] for one in groups.get(self._optionals, [])
        ]  # of no group with a title of its own
        named = [
            (group.title or "").partition(" (")[0]
            for group, rare in groups.items()
            if rare and group is not self._optionals
        ]
        formatter = argparse.HelpFormatter(self.prog)
        formatter.add_text(
            f"{number} more option{'s' * (number > 1)}: {self.prog} --help_all ({', '.join(loose + named)})"
        )
        return "\n" + formatter.format_help().lstrip("\n")

    def _short_usage(self) -> str:
        if self.usage:
            return self.usage
        formatter = self._get_formatter()
        options = [action for action in self._actions if action.option_strings and action.required]
        places = [action for action in self._actions if not action.option_strings]
        words = [
            f"{action.option_strings[-1]} {formatter._format_args(action, action.dest.upper())}" for action in options
        ]
        words += [formatter._format_args(action, action.dest) for action in places]
        return " ".join([self.prog, "[options]", *words]).replace("%", "%%")


class _Show(argparse.Action):
    """Prints the help and ends the process."""

    def __init__(self, option_strings, dest, help=None, everything=False, default=argparse.SUPPRESS):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)
        self._everything = everything

    def __call__(self, parser, namespace, values, option_string=None):
        parser._print_message(parser.format_help(self._everything), sys.stdout)
        parser.exit()


class _ShowVersion(argparse.Action):
    """Prints version and commit and ends the process."""

    def __init__(self, option_strings, dest, help=None, default=argparse.SUPPRESS):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        parser._print_message(f"{parser.prog} {version_and_commit()}\n", sys.stdout)
        parser.exit()


def _is_rare(action: argparse.Action) -> bool:
    return getattr(action, "rare", False)


def says_something(default: object) -> bool:
    """Whether a default is more than that an option is off, or that its help says in words what holds without it."""
    return default not in (None, "", (), [], argparse.SUPPRESS) and default is not False


def _with_default(help_text: str, default: object) -> str:
    """A help text that says the default, where it does not yet."""
    if "default" in help_text:
        return help_text
    shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
    return f"{help_text} (default: {shown.replace('%', '%%')})".strip()

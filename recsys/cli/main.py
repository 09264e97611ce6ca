"""The `recsys` command: finds the sub-commands that installed packages offer, and runs one."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from recsys import __version__
from recsys.cli.allocator import keep_freed_memory

GROUP = "recsys.commands"
TRACEBACK = "RECSYS_TRACEBACK"


def find_commands() -> dict[str, EntryPoint]:
    """Sub-commands by name; where two packages offer the same name, the one of this package stands."""
    found = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.module.startswith("recsys.")))
    return {point.name: point for point in found}


def summary(command: EntryPoint) -> str:
    """First line of the docstring of the command's module, read from its source: nothing is imported."""
    try:
        spec = importlib.util.find_spec(command.module)
        if spec is None or spec.origin is None:
            return "(not installed)"
        with open(spec.origin, encoding="utf-8") as source:
            text = ast.get_docstring(ast.parse(source.read()))
    except (ImportError, OSError, SyntaxError, ValueError) as error:
        return f"(cannot be read: {error})"
    return text.splitlines()[0].rstrip(".") if text else ""


def usage(commands: dict[str, EntryPoint]) -> str:
    """The text of `recsys --help`."""
    width = max((len(name) for name in commands), default=0)
    lines = [f"  {name:<{width}}  {summary(command)}" for name, command in commands.items()]
    return "\n".join(
        [
            "usage: recsys COMMAND [ARGUMENTS]",
            "",
            "commands:",
            *lines,
            "",
            "`recsys COMMAND --help` lists the arguments of a command; `recsys --version` prints the version.",
        ]
    )


def is_for_people(error: BaseException) -> bool:
    """Whether the message of `error` suffices: its class is (or derives from) one of this package, or it names a file.

    An exception class is defined here only for what a user can mend, so that its message is all they need.
    """
    ours = any(base.__module__.partition(".")[0] == "recsys" for base in type(error).__mro__)
    return ours or (isinstance(error, OSError) and error.filename is not None)


def run(name: str, command: EntryPoint, arguments: list[str]) -> int:
    """Runs one sub-command and turns what ends it into an exit code.

    Errors that are written for people are printed as one message (`RECSYS_TRACEBACK=1` shows where they come from);
    any other error is a bug and keeps its traceback.
    """
    try:
        return command.load()(arguments) or 0
    except KeyboardInterrupt:
        print(f"\nrecsys {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (`| head`) has left; the interpreter must not complain while it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get(TRACEBACK) == "1" or not is_for_people(error):
            raise
        print(f"recsys {name}: {error}", file=sys.stderr)
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `recsys` command.

    Args:
        argv: the arguments after `recsys`; None takes those of the process.

    Returns:
        The exit code: 0, 1 for an error that was reported, 2 for wrong usage, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] == "--version":
        print(f"recsys {__version__}")
        return 0
    commands = find_commands()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(commands))
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in commands:
        close = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean `{close[0]}`?" if close else "`recsys --help` lists the commands"
        print(f"recsys: no command `{name}`; {hint}", file=sys.stderr)
        return 2
    if argv is None:
        keep_freed_memory()
    return run(name, commands[name], rest)


if __name__ == "__main__":
    sys.exit(main())

"""An option, what reads a command line of options, and what writes one."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from utils import nearest


@dataclass(frozen=True)
class Option:
    """One option: its names (the first is the one in files and tables), default and meaning.

    `type` is None for a flag. `const` is the value of an option whose value may be left out.
    """

    names: str
    type: Callable[[str], Any] | None
    default: Any
    help: str
    const: Any = None
    key: str = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "key", self.names.split()[0].removeprefix("--"))

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        kwargs: dict[str, Any] = {"dest": self.key, "default": self.default, "help": self.help}
        if self.type is None:
            kwargs["action"] = "store_true"
        else:
            kwargs.update(type=self.type, metavar=self.key.rsplit("_", 1)[-1].upper())
        if self.const is not None:
            kwargs.update(nargs="?", const=self.const)
        parser.add_argument(*self.names.split(), **kwargs)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2, with the nearest known option.

    Of the description, a module's docstring, the first line is shown.
    """

    def __init__(self, options: Sequence[Option], prog: str, description: str):
        super().__init__(
            prog=prog,
            description=description.split("\n")[0],
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        # As in Python 3.14: -1e-3 is a number, not an option; so are -inf and -nan, to be refused.
        number_pattern = r"^-(\d[\d_.]*|\.\d+)([eE][-+]?\d+)?$|^-(inf|nan)$"
        self._negative_number_matcher = re.compile(number_pattern)
        self.known = [name for option in options for name in option.names.split()]
        for option in options:
            option.add_to(self)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].split("=")[0]
            self.error(f"unknown option {unknown[0]}{nearest(word, self.known)}")
        return parsed


def given(argv: Sequence[str] | None, options: Sequence[Option]) -> set[str]:
    """The keys of the options that the command line itself gives."""
    words = {word.split("=")[0] for word in (sys.argv[1:] if argv is None else argv)}
    return {o.key for o in options if words & set(o.names.split())}


def command(script: str, values: dict[str, Any], extra: Sequence[str] = ()) -> list[str]:
    """The words of a command line: true flags bare, false and None ones left out."""
    words = [script]
    for key, value in values.items():
        if value is True:
            words.append(f"--{key}")
        elif value is not None and value is not False:
            words += [f"--{key}", str(value)]
    return [*words, *extra]

"""Command lines: what an option is, the values that it takes, and errors of one line.

`values` has the types of values and `parser` the options and what reads them. What options there
are is declared where they belong: those of train.py and test.py in options.py.
"""

from command_line.parser import Option, Parser, command, given
from command_line.values import (
    chosen_epochs,
    integer,
    key_values,
    number,
    one_of,
    whole_numbers,
)

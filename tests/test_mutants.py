"""The list of wrong changes is of this code: `make mutants` can try each of them."""

import ast
import shlex

import pytest
from conftest import ROOT
from mutants import LIST, read_list

MUTANTS = read_list(LIST.read_text())


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_every_change_applies_and_names_its_tests(file):
    for mutant in MUTANTS:
        if mutant.file == file:
            changed = mutant.changed()
            assert mutant.about and mutant.old != mutant.new
            ast.parse(changed)
            words = shlex.split(mutant.tests)
            assert words and all((ROOT / w).exists() for w in words if w.startswith("tests/"))


def test_a_change_that_is_no_longer_there_is_named():
    (stale,) = read_list("[data.py] tests/test_data.py\n\n# gone\n- no such text\n+ pass")
    with pytest.raises(SystemExit, match=r"stale: gone: data\.py has 0 of 'no such text'"):
        stale.changed()

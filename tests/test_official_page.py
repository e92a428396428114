"""docs/official-code.md names the official options: each is declared."""

import re

import pytest
from conftest import ROOT

import options

PAGE = (ROOT / "docs" / "official-code.md").read_text()


def named(section):
    return set(re.findall(r"--\w+", PAGE.split(f"<!-- {section} -->")[1].split("<!--")[0]))


@pytest.mark.parametrize("script, declared", [("train", options.TRAIN), ("test", options.TEST)])
def test_official_options_are_all_here(script, declared):
    names = {name for option in declared for name in option.names.split()}
    assert len(named(f"official {script}")) >= 40
    assert named(f"official {script}") <= names

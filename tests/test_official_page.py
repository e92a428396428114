"""docs/official-code.md names every option, and no other."""

import re

import pytest
from conftest import ROOT

import options

PAGE = (ROOT / "docs" / "official-code.md").read_text()


def named(section):
    return set(re.findall(r"--\w+", PAGE.split(f"<!-- {section} -->")[1].split("<!--")[0]))


@pytest.mark.parametrize("script, declared", [("train", options.TRAIN), ("test", options.TEST)])
def test_the_page_names_every_option(script, declared):
    names = {name for option in declared for name in option.names.split()}
    official, own = named(f"official {script}"), named(f"own {script}")
    assert official | own == names and not official & own

"""What docs/evaluation.md says of the papers' protocols is what the recipes have."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from gopstream.jobs.recipe import list_recipes, load_recipe

PAGE = Path(__file__).parents[3] / "docs" / "evaluation.md"
CELLS = re.compile(r"\| (?P<names>`[^|]+) \| (\d+x\d+) \| (\d+), (\d+) \| ([^|]+) \|")


def protocols():
    """(patterns, views, short side, crop, sampling and rule) of each row."""
    text = PAGE.read_text()
    rows = [
        (re.findall(r"`([^`]+)`", names), views, int(short), int(crop), re.findall(r"`(\w+)`", at))
        for names, views, short, crop, at in CELLS.findall(text)
    ]
    assert len(rows) > 8
    return rows


def test_protocols_are_those_of_the_recipes():
    found = set()
    for patterns, views, short_side, crop, starts in protocols():
        for pattern in patterns:
            names = [name for name in list_recipes() if fnmatchcase(name, pattern)]
            assert names, pattern
            found.update(names)
            for name in names:
                recipe = load_recipe(name)
                size = recipe.test.size or recipe.transform.size
                short = recipe.test.short_side or recipe.transform.view_short_side or size
                scale = crop / size if name.endswith(f"_{size}") else 1
                assert recipe.test.views == views, name
                assert (short * scale, size * scale) == (short_side, crop), name
                assert [recipe.clip.sampling, recipe.clip.view_rule][: len(starts)] == starts, name
                assert recipe.test.average == "probabilities", name
    with_paper = {name for name in list_recipes() if load_recipe(name).paper is not None}
    assert found == with_paper


@pytest.mark.parametrize("word", ["--split", "--views", "--report", "--out", "--predictions"])
def test_options_are_listed(word):
    assert f"| `{word}" in PAGE.read_text()

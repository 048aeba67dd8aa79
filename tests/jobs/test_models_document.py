"""docs/models.md: the networks of the papers' tables are made as it says, and clips are theirs."""

import ast
import json
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="models need torch")

from gopstream.models import create_model  # noqa: E402
from gopstream.models.catalogue import MODELS  # noqa: E402

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = (DOCS / "models.md").read_text()


def rows_below(heading):
    """Cells of the rows of the first table below a heading."""
    section = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows[2:]]


VARIANTS = [
    (where, code)
    for _, where, made_by in rows_below("Variants")
    for code in re.findall(r"`(create_model\(.+?\))`", made_by)
]


def test_the_document_has_variants():
    assert len(VARIANTS) > 15
    assert len(set(VARIANTS)) == len(VARIANTS)


@pytest.mark.parametrize(("where", "code"), VARIANTS, ids=[code for _, code in VARIANTS])
def test_a_variant_is_made_as_the_document_says(where, code):
    call = ast.parse(code, mode="eval").body
    (name,) = map(ast.literal_eval, call.args)
    options = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    with torch.device("meta"):
        made = create_model(name, **options)
        plain = create_model(name, num_classes=options["num_classes"])
    assert made.head.out_features == options.pop("num_classes")
    assert repr(described(made)) != repr(described(plain))
    if "in no table" in where:
        return
    # Its figures are counted, under the same options.
    contract = MODELS[name].contract
    frames = options.pop("num_frames", None) or contract.num_frames
    size = options.pop("size", None)
    kept = json.loads((DOCS / "results" / "models.json").read_text())["models"]
    wanted = json.loads(json.dumps(options))
    assert any(
        (row["model"], row["options"], row["clip"][0]) == (name, wanted, frames)
        and size in (None, row["clip"][1])
        for row in kept
    )


def described(model):
    """What tells two networks apart without values: weights, and plain settings of the parts."""
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    settings = {
        name: {
            key: value
            for key, value in vars(part).items()
            if not key.startswith("_") and isinstance(value, (bool, int, float, str, tuple))
        }
        for name, part in model.named_modules()
    }
    return shapes, settings


def test_clips_of_the_document_are_those_of_the_catalogue():
    """The first row of each family is its entry's own."""
    rows = [row for row in rows_below("Clips and views") if row[0]]
    assert len(rows) == 7
    for models, _, clip, views in rows:
        for stem in re.findall(r"`(\w+_)\*`", models):
            entries = [
                entry for name, entry in MODELS.items() if name.startswith(stem) and entry.figures
            ]
            assert entries
            for entry in entries:
                contract = entry.contract
                told = (
                    f"{contract.num_frames} segments"
                    if contract.sampling == "segments"
                    else f"{contract.num_frames} frames, stride {contract.frame_stride}"
                )
                assert (clip, views) == (told, f"{contract.test_clips} x {contract.test_crops}")

"""The table of sizes and arithmetic: what it compares, and what it does not let pass."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="models need torch")

from gopstream.jobs.bench import model_table  # noqa: E402
from gopstream.jobs.bench.model_table import all_variants, failures, measure_variant  # noqa: E402
from gopstream.jobs.bench.model_variants import (  # noqa: E402
    PST,
    VIDEO_FOCALNET,
    Reference,
    Variant,
    catalogue_variants,
)
from gopstream.models import list_models  # noqa: E402

DOCS = Path(__file__).parents[2] / "docs"
RESULT = DOCS / "results" / "models.json"


def of_title(title):
    return next(variant for variant in all_variants() if variant.title == title)


def test_every_model_and_no_title_twice():
    assert sorted(variant.model for variant in catalogue_variants()) == list_models()
    titles = [variant.title for variant in all_variants()]
    assert len(set(titles)) == len(titles)


def test_the_kept_result_is_of_these_variants_and_holds():
    """It is made by a command; a variant or a reference that changes needs it made again."""
    kept = json.loads(RESULT.read_text())
    assert kept["holds"]
    assert [row["title"] for row in kept["models"]] == [each.title for each in all_variants()]
    for row, variant in zip(kept["models"], all_variants(), strict=True):
        assert row["options"] == json.loads(json.dumps(dict(variant.options)))
        assert row["reference"] == (variant.reference and variant.reference._asdict())
        assert row["paper"]["gmacs"] == variant.paper_gmacs
        assert not row["unexplained"]


def test_the_kept_result_says_that_149_cannot_be_reproduced():
    rows = {row["title"]: row for row in json.loads(RESULT.read_text())["models"]}
    (line,) = rows["video_focalnet_b"]["explanations"]
    assert "+48.08% off the paper's 149" in line
    assert "cannot be reproduced" in line


def test_the_document_has_the_figures_of_the_kept_result():
    kept = json.loads(RESULT.read_text())
    document = (DOCS / "models.md").read_text()
    words = " ".join(document.split())
    assert f"{len(kept['models'])} rows in all" in words
    for row in kept["models"]:
        if row["title"] != row["model"] or row["paper"]["gmacs"] is None:
            continue
        (line,) = (line for line in document.splitlines() if line.startswith(f"| `{row['model']}`"))
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        paper, reference = row["paper"], row["reference"]
        millions = paper["params_millions"]
        assert cells[1:] == [
            f"{row['clip'][0]} x {row['clip'][1]}",
            str(row["classes"]),
            f"{row['parameters']:,}",
            "" if reference is None else f"{reference['parameters']:,}",
            "" if millions is None else f"{millions:g}",
            f"{row['gmacs']:.3f}",
            "" if reference is None else f"{reference['gmacs']:.3f}",
            f"{paper['gmacs']:g}",
        ]
        for line in row["explanations"]:
            why = line.partition("paper's ")[2].partition(": ")[2]
            assert why == "rounded" or why in words


@pytest.mark.parametrize(
    "title",
    [
        "Video-FocalNet-S, tubelets of 2 of 16 frames",
        "Video-FocalNet-T, design (a), space alone",
        "Local: Video-Swin-T (8, 7, 7), Table 2(e)",
    ],
)
def test_variants_are_those_of_the_authors_code(title):
    variant = of_title(title)
    row = measure_variant(variant)
    assert abs(row["parameters"] / variant.reference.parameters - 1) < 1e-4
    assert abs(row["gmacs"] / variant.reference.gmacs - 1) < 1e-4
    assert row["parameters"] != measure_variant(Variant("plain", variant.model))["parameters"]


def test_a_deviation_that_nothing_explains_fails():
    row = measure_variant(Variant("wrong", "pst_tiny", reference=Reference(10**6, 1.0, "made up")))
    assert len(row["unexplained"]) == 2
    assert failures([row])[0].startswith("wrong: parameters: -81.")


def test_a_remark_explains_its_own_figure_only():
    variant = Variant(
        "wrong",
        "pst_tiny",
        reference=Reference(10**6, 1.0, "made up"),
        remarks={"GMACs": "it is small"},
    )
    row = measure_variant(variant)
    assert [words.partition(":")[0] for words in row["unexplained"]] == ["parameters"]
    assert row["explanations"][0].endswith("it is small")


def test_rounding_explains_as_far_as_the_decimals_go():
    # 181,348 parameters with 400 classes, 64 wide.
    rounded, wrong, classes = (
        measure_variant(Variant("x", "pst_tiny", num_classes=c, paper_params_millions=m))
        for c, m in ((400, 0.2), (400, 0.18), (48, 0.181))
    )
    assert rounded["explanations"] == ["parameters: -9.33% off the paper's 0.2: rounded"]
    assert wrong["explanations"] == ["parameters: +0.75% off the paper's 0.18: rounded"]
    (line,) = classes["explanations"]
    assert line.endswith("it is the number with 400 classes, 0.18")
    unexplained = measure_variant(Variant("x", "pst_tiny", paper_params_millions=0.19))
    assert unexplained["unexplained"] == ["parameters: -4.55% off the paper's 0.19"]


def test_the_command_writes_what_it_compares_and_fails_on_a_deviation(monkeypatch, tmp_path):
    result = tmp_path / "new" / "models.json"
    monkeypatch.setattr("sys.argv", ["model_table", "--json", str(result)])
    good = Variant("good", "pst_tiny", reference=Reference(181_348, None, "known"))
    for variant, code in ((good, 0), (good._replace(reference=Reference(1, None, "no")), 1)):
        monkeypatch.setattr(model_table, "all_variants", lambda variant=variant: [variant])
        assert model_table.main() == code
        content = json.loads(result.read_text())
        assert content["holds"] == (code == 0)
        assert content["models"][0]["parameters"] == 181_348


def test_variants_of_both_families_are_in_the_table():
    assert {variant.model.rpartition("_")[0] for variant in VIDEO_FOCALNET} == {"video_focalnet"}
    assert len(PST) > 20

"""'gopstream models': what is counted stands beside what was published."""

import json

import pytest

pytest.importorskip("torch", reason="models need torch")

from gopstream.jobs import models  # noqa: E402
from gopstream.jobs.cli import main  # noqa: E402
from gopstream.models import list_models  # noqa: E402
from gopstream.models.cost import measure_model  # noqa: E402
from gopstream.models.paper_figures import FIGURES  # noqa: E402


@pytest.fixture
def described(capsys, tmp_path):
    """A function that runs the command for a model: what it prints, and its facts."""

    def describe(name):
        path = tmp_path / "facts.json"
        assert main(["models", name, "--json", str(path)]) == 0
        return capsys.readouterr().out, json.loads(path.read_text())[name]

    return describe


def test_a_models_figures_stand_beside_the_published_ones(described):
    text, facts = described("swin2d_t")
    figures = FIGURES["swin2d_t"]
    cost = measure_model("swin2d_t", num_classes=174)
    assert (facts["parameters"], facts["gmacs"]) == (cost.parameters, cost.gmacs)
    assert facts["num_classes"] == figures.num_classes == 174
    assert facts["published"] == {
        "source": "Table 6",
        "num_classes": 174,
        "paper_params_millions": 28.5,
        "paper_gmacs": 72,
        "official_parameters": 27_657_768,
        "official_gmacs": 72.0681,
    }
    assert "27,657,768 with 174 classes; official 27,657,768; paper 28.5 M" in text
    assert "; official 72.0681; paper 72 " in text
    assert f"- {figures.deviations[0]}" in text.replace("\n", " ")
    assert "Something-Something V2" in text
    assert "56.7" in text
    assert facts["top1"][1]["top1"] == 56.7
    assert facts["contract"]["num_frames"] == 32
    assert "block_kinds" in facts["options"]


def test_a_model_of_no_paper_has_no_published_figures(described):
    text, facts = described("dvt_tiny")
    assert facts["published"] is None
    assert facts["num_classes"] == models.CLASSES
    assert "official" not in text
    assert "weights that fit" in text
    assert "none are published" in text
    assert "subclip frames" in text


def test_what_a_model_does_not_take_is_not_listed(described):
    assert "subclip frames" not in described("pst_tiny")[0]


def test_clips_and_views_are_told_and_segments_have_no_stride(described):
    text, facts = described("video_focalnet_tiny")
    assert "segments" in text
    assert "test clips" in text
    assert "frame stride" not in text
    contract = facts["contract"]
    assert (contract["sampling"], contract["frame_stride"]) == ("segments", None)
    assert (contract["test_clips"], contract["test_crops"]) == (4, 3)
    text, facts = described("pst_tiny")
    assert "dense" in text
    assert "frame stride" in text
    assert facts["contract"]["frame_stride"] == 2


def cells_of_list(capsys, *words):
    """Run the command for the list; returns the cells of each model."""
    assert main(["models", *words]) == 0
    lines = [line.split("\u2502") for line in capsys.readouterr().out.splitlines()]
    return {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in lines if cells[1:]
    }


def test_the_list_has_every_model_on_a_line_with_what_was_published(capsys):
    cells = cells_of_list(capsys)
    assert sorted(cells) == list_models()
    assert cells["video_focalnet_b"] == ["157.39", "", "220.65", "149", "8 x 224", "frames"]


def test_the_list_is_counted_where_that_is_asked_for(capsys, monkeypatch):
    """Of two models: all of them take minutes, and each is counted in tests/models."""
    monkeypatch.setattr(models, "list_models", lambda: ["pst_tiny", "video_focalnet_b"])
    cells = cells_of_list(capsys, "--measured")
    assert cells["video_focalnet_b"][:3] == ["157.39", "157.39", ""]
    assert cells["video_focalnet_b"][3:6] == ["220.65", "220.65", "149"]
    counted = measure_model("pst_tiny", num_classes=models.CLASSES)
    assert cells["pst_tiny"][0] == f"{counted.parameters / 1e6:.2f}"
    assert cells["pst_tiny"][3] == f"{counted.gmacs:.2f}"


def test_a_name_that_is_none_is_refused_with_the_nearest(capsys):
    assert main(["models", "pst_tt"]) == 1
    err = capsys.readouterr().err
    assert "did you mean 'pst_t'" in err
    assert "Traceback" not in err

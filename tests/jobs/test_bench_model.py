"""'gopstream bench model': the two forms are one network, and what is measured is that network."""

import json
from itertools import count

import pytest

torch = pytest.importorskip("torch", reason="models need torch")

from gopstream.jobs.bench import model as bench  # noqa: E402
from gopstream.jobs.bench import model_steps  # noqa: E402
from gopstream.jobs.bench.eager_pst import cell_offsets, make_grid, roll_mask  # noqa: E402
from gopstream.jobs.bench.model_forms import (  # noqa: E402
    Agreement,
    Clips,
    Workload,
    compare_forms,
    has_plain_form,
    make_form,
)
from gopstream.jobs.bench.model_table6 import measure_table6  # noqa: E402
from gopstream.jobs.cli import main  # noqa: E402

CPU = torch.device("cpu")
NETWORKS = (
    *("video_focalnet_t", "pst_t", "pst_t_dagger", "swin2d_t", "video_swin_t"),
    *("video_focalnet_tiny", "pst_tiny"),
)


def both_forms(name):
    workload = Workload(name, True, 5)
    models = [make_form(workload, form).double() for form in ("gopstream", "plain")]
    clips = workload.draw_clips(2)
    return models, Clips(clips.frames.double(), clips.labels)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_product_does_what_the_plain_form_does(name):
    """Written apart, from the papers: in float64 nothing but rounding may differ."""
    agreement = compare_forms(*both_forms(name))
    assert max(agreement) < 1e-13


@pytest.mark.parametrize("name", ["video_focalnet_t", "pst_t"])
def test_every_weight_of_the_plain_form_counts(name):
    """A weight that has no say could be wrong without a difference."""
    (model, plain), clips = both_forms(name)
    before = plain(clips.frames).detach()
    torch.manual_seed(1)
    for key, parameter in plain.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter))
            changed = (plain(clips.frames) - before).abs().max()
            parameter.copy_(kept)
        assert changed > 1e-4, key
    assert sum(each.numel() for each in model.parameters()) == sum(
        each.numel() for each in plain.parameters()
    )


def test_a_form_that_differs_is_not_measured(monkeypatch):
    workload = Workload("pst_tiny", True, 5)
    monkeypatch.setattr(bench, "compare_forms", lambda *_: Agreement(2e-5, 0.0))
    row = bench.measure_on_cpu(workload, rounds=1)
    assert not row["agrees"]
    assert "forms" not in row
    on_gpu = {"training": {"models": [{"model": "deit_s_2d"}, row]}}
    assert bench.failures({"cpu": {"models": []}, "cuda": None}) == []
    assert len(bench.failures({"cpu": {"models": [row]}, "cuda": on_gpu})) == 2
    (said,) = bench.failures({"cpu": {"models": [row]}, "cuda": None})
    assert said.startswith("pst_tiny: the plain form does something else")


def test_forms_that_differ_are_seen():
    (model, plain), clips = both_forms("pst_t")
    with torch.no_grad():
        plain.backbone.layers[0].blocks[1].attn.relative_position_bias_table.mul_(1.001)
    assert not compare_forms((model, plain), clips).holds


def test_the_plain_form_moves_patches_by_pattern_c_and_masks_what_the_roll_joins():
    grid = make_grid((16, 14, 14), window=(1, 7, 7), rolls=True)
    offsets = cell_offsets(grid, kind="tps").view(7, 7)
    assert offsets[:4, :4].tolist() == [
        [-4, 1, 2, -4],
        [-1, 0, 3, -1],
        [-2, -3, 4, -2],
        [-4, 1, 2, -4],
    ]
    mask = roll_mask(grid)
    assert mask.shape == (16, 4, 49, 49)
    assert (mask[:, 0] == 0).all()
    assert (mask[0, 1, 0] == -100).view(7, 7).any(0).tolist() == [False] * 4 + [True] * 3
    assert roll_mask(make_grid((16, 14, 14), window=(1, 7, 7), rolls=False)) is None


def test_steps_take_turns_and_the_median_counts(monkeypatch):
    ticks = count()
    monkeypatch.setattr(model_steps.time, "perf_counter", lambda: next(ticks))
    order = []
    steps = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = model_steps.time_in_turns(steps, rounds=3, device=CPU, calls=2)
    assert "".join(order) == "ab" + "aabb" + "bbaa" + "aabb"
    assert seconds == {"a": 0.5, "b": 0.5}


def test_a_training_step_fills_every_gradient_anew():
    workload = Workload("pst_tiny", True, 5)
    model, clips = make_form(workload, "gopstream"), workload.draw_clips(2)
    losses = [model_steps.train_step(model, clips, precision="float32").item() for _ in range(2)]
    assert losses[0] == losses[1]
    first = [each.grad.clone() for each in model.parameters()]
    model_steps.train_step(model, clips, precision="float32")
    assert all(torch.equal(a, b.grad) for a, b in zip(first, model.parameters(), strict=True))
    logits = model_steps.infer(model, clips, precision="bfloat16")
    assert logits.dtype == torch.bfloat16
    assert not logits.requires_grad


def test_peak_memory_grows_with_the_batch():
    workload = Workload("video_focalnet_tiny", False, 5)
    small, large = (model_steps.peak_in_this_process(workload, "plain", b) for b in (1, 64))
    assert large > small + 16


def test_training_is_measured_of_a_model_that_has_no_plain_form():
    assert not has_plain_form("deit_tiny_tps")
    row = bench.measure_training(
        Workload("deit_tiny_tps", True), forms=("gopstream",), rounds=1, device=CPU
    )
    figures = row["forms"]["gopstream"]
    assert figures["clips_per_second"] == pytest.approx(4 / figures["train_seconds"])


def test_training_is_measured_of_forms_that_were_compared():
    workload = Workload("pst_tiny", True)
    row = bench.measure_training(workload, forms=("gopstream", "plain"), rounds=1, device=CPU)
    assert row["agrees"]
    assert row["forms"].keys() == {"gopstream", "plain"}
    assert 0 < row["agreement"]["gradient"] < 1e-5


def test_a_form_without_room_is_a_row_that_says_so(monkeypatch):
    def step(model, clips, *, precision):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(bench, "train_step", step)
    row = bench.measure_training(
        Workload("deit_tiny_tps", True), forms=("gopstream",), rounds=1, device=CPU
    )
    assert row["forms"] == {"gopstream": {"missing": "out of memory"}}


def test_table_6_gives_the_ratios_of_the_paper_beside_the_measured():
    said = []
    measured = measure_table6(
        ("gopstream",), device=CPU, rounds=1, is_shrunk=True, on_step=said.append
    )
    assert len(measured["rows"]) == 6
    rows = {row["model"]: row for row in measured["rows"]}
    ratios = {(each["of"], each["to"], each["figure"]): each for each in measured["ratios"]}
    assert len(ratios) == 8, "no memory without CUDA"
    latency = ratios["pst_t", "swin2d_t", "latency_ms"]
    assert latency["ratio"] == rows["pst_t"]["latency_ms"] / rows["swin2d_t"]["latency_ms"]
    assert latency["paper"] == pytest.approx(31 / 29)
    assert ratios["video_swin_b", "pst_b_dagger", "clips_per_second"]["paper"] == pytest.approx(
        7.9 / 13.8
    )


def test_the_command_measures_and_reports(capsys, tmp_path):
    path = tmp_path / "result.json"
    words = ["bench", "model", "pst_tiny", "--quick", "--rounds", "1", "--json", str(path)]
    assert main(words) == 0
    text, content = capsys.readouterr().out, json.loads(path.read_text())
    assert "its figures mean nothing" in text
    assert "pst_tiny" in text
    (row,) = content["cpu"]["models"]
    for figure, ratio in row["plain_over_gopstream"].items():
        assert ratio == row["forms"]["plain"][figure] / row["forms"]["gopstream"][figure] > 0
    assert content["failures"] == []
    assert content["command"] == "gopstream bench model pst_tiny --json FILE"
    if not torch.cuda.is_available():
        assert content["cuda"] is None
        assert "no CUDA device" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it is measured")
def test_a_model_that_nothing_here_can_measure_is_refused(capsys):
    assert main(["bench", "model", "deit_tiny_tps"]) == 1
    assert "deit_tiny_tps: not written the plain way" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [(["pst_q"], "no model is called 'pst_q'"), (["--rounds", "0"], "--rounds must be at least 1")],
)
def test_what_cannot_be_meant_is_one_line(capsys, words, said):
    assert main(["bench", "model", *words]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err

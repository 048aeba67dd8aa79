"""'gopstream bench model --train': a step is a step of training, and what is cut off is said."""

import gc
import json

import pytest

torch = pytest.importorskip("torch", reason="models need torch")

from gopstream.jobs.bench import model_training as bench  # noqa: E402
from gopstream.jobs.bench import training_steps as steps  # noqa: E402
from gopstream.jobs.bench.model_forms import Workload  # noqa: E402
from gopstream.jobs.cli import main  # noqa: E402
from gopstream.jobs.errors import UserError  # noqa: E402
from gopstream.models.catalogue import MODELS  # noqa: E402

CPU = torch.device("cpu")
TINY = Workload("deit_tiny_tps", True, 5)
QUICK = bench.TrainingBench(None, 1, True, 10.0)


@pytest.fixture(scope="module", autouse=True)
def nothing_old_is_searched():
    """Each measurement collects garbage, of which the imported modules have none."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def measure(workload, *, forms=("eager",), on_form=lambda row: None):
    plan = steps.TrainingPlan(workload, None, 1)
    return steps.measure_steps(plan, device=CPU, on_form=on_form, forms=forms)


def bench_quietly(names, *, bench_options=QUICK, earlier=None):
    ignore = lambda _: None  # noqa: E731
    return bench.bench_training(
        names, bench=bench_options, earlier=earlier, on_step=ignore, on_model=ignore
    ).content


def test_the_largest_batch_that_has_memory_is_found():
    asked = []

    def attempt(batch):
        asked.append(batch)
        if batch > 8:
            raise torch.OutOfMemoryError

    assert steps.largest_fitting(attempt, most=40) == 8
    assert asked == [32, 16, 8]


def test_a_model_that_fits_with_no_batch_has_none():
    def attempt(batch):
        raise torch.OutOfMemoryError

    assert steps.largest_fitting(attempt, most=4) == 0


def test_a_step_changes_every_weight_as_the_recipes_optimiser_does():
    training = steps.Training(TINY, is_compiled=False, device=CPU)
    before = {name: each.detach().clone() for name, each in training.network.named_parameters()}
    training.take(steps.draw_batch(TINY, 2, network=training.network))
    for name, parameter in training.network.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_the_share_is_six_operations_for_each_multiply_add_of_the_forward_pass():
    row = measure(TINY)
    figures = row["forms"]["eager"]
    operations = 6e9 * row["gmacs"] * row["batch"] / figures["step_seconds"]
    assert figures["matmul_share"] == pytest.approx(operations / (1e12 * row["matmul_tflops"]))
    assert figures["clips_per_second"] == pytest.approx(2 / figures["step_seconds"])


def test_a_matrix_product_has_two_operations_for_each_of_its_cubed_side(monkeypatch):
    monkeypatch.setattr(steps, "time_in_turns", lambda *_, **__: {"matmul": 0.5})
    assert steps.matmul_flops(CPU, side=10, rounds=1) == 4000


def test_a_model_that_takes_motion_is_given_it():
    workload = Workload("dvt_mvit_b", True, 5)
    training = steps.Training(workload, is_compiled=False, device=CPU)
    batch = steps.draw_batch(workload, 2, network=training.network)
    given = []
    training.network.register_forward_pre_hook(
        lambda _, args, kwargs: given.append(kwargs), with_kwargs=True
    )
    assert torch.isfinite(training.take(batch).loss)
    assert given[0]["motion"].shape == (2, 4, 2, 4, 4, 4)
    assert given[0]["valid"].all()


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("pst_t", "pst_t_k400"),
        ("swin2d_t", "swin2d_t_ssv1"),
        ("sifa_swin_t", "sifa_swin_b_k400"),
        ("sifa_net_tiny", "sifa_net_r101_k400"),
    ],
)
def test_the_optimiser_is_of_the_models_recipe_or_the_nearest_of_its_family(name, recipe):
    assert steps.recipe_of(name)[0] == recipe


def test_a_form_that_the_compiler_refuses_says_why(monkeypatch):
    monkeypatch.setattr(steps, "compile_backend", lambda _: "no_such_backend")
    seen = []
    row = measure(TINY, forms=steps.FORMS, on_form=lambda row: seen.append(list(row["forms"])))
    assert seen == [["eager"], ["eager", "compiled"]]  # each is handed over when it is done
    assert "step_seconds" in row["forms"]["eager"]
    assert "no_such_backend" in row["forms"]["compiled"]["missing"]
    (said,) = bench._failures([row])
    assert said.startswith("deit_tiny_tps, compiled: InvalidBackend")


def test_a_loss_that_is_no_number_is_no_measurement(monkeypatch):
    monkeypatch.setattr(steps, "_LEARNING_RATE", 1e30)
    row = measure(TINY)
    assert "FloatingPointError: the loss went from 1." in row["forms"]["eager"]["missing"]


def test_a_form_without_room_is_a_result(monkeypatch):
    def take(self, batch):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(steps.Training, "take", take)
    row = measure(TINY)
    assert row["forms"] == {"eager": {"missing": "out of memory"}}
    assert list(bench._failures([row])) == []


def test_a_model_that_is_not_done_in_time_is_named():
    content = bench_quietly(["pst_tiny"], bench_options=QUICK._replace(minutes_each=1e-3))
    (row,) = content["models"]
    assert row["forms"]["eager"] == {"missing": "not done in 0.001 minutes"}
    assert content["failures"] == [
        f"pst_tiny, {form}: not done in 0.001 minutes" for form in steps.FORMS
    ]


def test_the_command_measures_reports_and_resumes(capsys, tmp_path):
    path = tmp_path / "result.json"
    words = ["bench", "model", "deit_tiny_tps", "--train", "--quick", "--rounds", "1"]
    assert main([*words, "--json", str(path)]) == 0
    text, content = capsys.readouterr().out, json.loads(path.read_text())
    assert "its figures mean nothing" in text
    (row,) = content["models"]
    assert row["forms"].keys() == set(steps.FORMS)
    first_losses = [row["forms"][form]["first_loss"] for form in steps.FORMS]
    assert first_losses[1] == pytest.approx(first_losses[0], rel=1e-5)
    assert (row["batch"], row["clip"], content["failures"]) == (2, [3, 16], [])
    assert content["command"] == ("gopstream bench model --train deit_tiny_tps --quick --json FILE")
    assert bench_quietly(["deit_tiny_tps"], earlier=content)["models"] == [row]
    content["versions"]["torch"] = "1.0"
    with pytest.raises(UserError, match="the earlier run was of"):
        bench_quietly(["deit_tiny_tps"], earlier=content)


def test_what_failed_is_measured_again(monkeypatch):
    measured = []

    def measure_apart(plan, *, minutes):
        measured.append(plan.workload.name)
        return {"model": plan.workload.name, "forms": {f: {"missing": "late"} for f in steps.FORMS}}

    monkeypatch.setattr(bench, "_measure_apart", measure_apart)
    first = bench_quietly(["pst_t", "swin2d_t"])
    first["models"][0]["forms"] = {form: {"missing": "out of memory"} for form in steps.FORMS}
    second = bench_quietly(["pst_t", "swin2d_t"], earlier=first)
    assert measured == ["swin2d_t", "pst_t", "pst_t"]
    assert [row["model"] for row in second["models"]] == ["swin2d_t", "pst_t"]


def test_all_full_size_models_are_measured_the_small_ones_first(monkeypatch):
    measured = []

    def measure_apart(plan, *, minutes):
        measured.append(plan.workload)
        return {"model": plan.workload.name, "forms": {f: {"missing": "late"} for f in steps.FORMS}}

    monkeypatch.setattr(bench, "_measure_apart", measure_apart)
    monkeypatch.setattr(bench, "_gmacs", lambda name: len(name))
    bench_quietly([])
    names = [workload.name for workload in measured]
    assert set(names) == {name for name, entry in MODELS.items() if entry.figures is not None}
    assert [len(name) for name in names] == sorted(len(name) for name in names)
    classes = {workload.name: workload.num_classes for workload in measured}
    assert (classes["pst_t"], classes["swin2d_t"]) == (400, 174)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it is measured")
def test_without_a_gpu_nothing_is_measured(capsys):
    assert main(["bench", "model", "pst_t", "--train"]) == 1
    assert "--train measures on a CUDA device, and there is none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "4"], "--batch and --resume are of --train"),
        (["--train", "--batch", "0"], "must be above 0"),
        (["--train", "--minutes-each", "0"], "must be above 0"),
        (["--train", "--quick", "--resume"], "give it by --json FILE"),
    ],
)
def test_what_cannot_be_meant_is_one_line(capsys, words, said):
    assert main(["bench", "model", *words]) == 1
    assert said in capsys.readouterr().err


def test_a_file_of_something_else_is_not_completed(tmp_path):
    path = tmp_path / "other.json"
    assert bench.earlier_content(str(path)) is None
    path.write_text("[]")
    with pytest.raises(UserError, match=r"other\.json is not the result of an earlier --train"):
        bench.earlier_content(str(path))

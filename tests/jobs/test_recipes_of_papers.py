"""The recipes of the papers say what the papers and their released configurations say.

One test compares one table with all recipes: parametrised, they would take half a minute.
"""

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.jobs import recipe_tables as tables
from tests.jobs.recipe_tables import RUNS, lookup

from gopstream.jobs.network import build_network, clip_spec
from gopstream.jobs.recipe import list_recipes, load_recipe
from gopstream.jobs.recipe_sections import ClipRecipe, EvaluationRecipe
from gopstream.jobs.training.parameter_groups import parameter_groups
from gopstream.models.catalogue import find_model
from gopstream.pipeline.annotations import READERS
from gopstream.shards.loading.batch_ops import MixSpec
from gopstream.shards.loading.transform_spec import TransformSpec

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "jobs" / "recipes"
DOCUMENT = ROOT / "docs" / "recipes.md"
SECTIONS = ("model", "clip", "transform", "mix", "data", "train", "optimiser", "schedule", "test")
KINETICS = ("k400", "k600")


@cache
def recipe(name):
    return load_recipe(name)


@cache
def network(model, frames, size, options):
    """A network without memory, for ten classes; of any recipe that has these."""
    name = next(name for name in RUNS if key_of(name) == (model, frames, size, options))
    with torch.device("meta"):
        return build_network(recipe(name), 10)


def key_of(name):
    """What the parameters, and the motion that is wanted, depend on."""
    run = RUNS[name]
    frames = run.frames if run.model.startswith("dvt") else None
    return run.model, frames, run.size, tuple(run.options.items())


def network_of(name):
    return network(*key_of(name))


def family_of(name):
    model = RUNS[name].model
    return next(family for family, models in tables.FAMILIES.items() if model in models)


def takes_motion(name):
    """Of DVT all but the attention within frames alone."""
    run = RUNS[name]
    return run.model.startswith("dvt") and run.options.get("attention") != "multi_scale"


def row(table, name):
    return lookup(table, family_of(name), RUNS[name].data)


def head_comment(name):
    lines = (FOLDER / f"{name}.toml").read_text().split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return " ".join(line.removeprefix("#").strip() for line in lines)


def compare(got, expected):
    """Compare what two functions say of each recipe, and show those that differ alone."""
    both = {name: (got(name), expected(name)) for name in RUNS}
    assert {name: pair for name, pair in both.items() if pair[0] != pair[1]} == {}


def rounded(number):
    return float(f"{number:.6g}")


def test_every_run_has_a_recipe_and_every_recipe_its_run():
    with_paper = {name for name in list_recipes() if recipe(name).paper is not None}
    assert with_paper == set(RUNS)


def test_models():
    compare(lambda name: recipe(name).model.name, lambda name: RUNS[name].model)


def test_clips():
    def expected(name):
        sampling, stride, overrun, view_rule = row(tables.CLIPS, name)
        return ClipRecipe(
            num_frames=RUNS[name].frames,
            stride=stride,
            sampling=sampling,
            overrun=overrun,
            view_rule=view_rule,
        )

    compare(lambda name: recipe(name).clip, expected)


def test_drop_path_and_other_options():
    def expected(name):
        run, family = RUNS[name], family_of(name)
        if family.startswith("dvt"):
            length = (family, "kinetics", run.frames)
            drop_path = tables.DVT_DROP_PATHS[length] if run.data == "k400" else 0.4
        else:
            drop_path = tables.DROP_PATHS[run.model]
        own = {"projections": "value_output"} if family == "dvt_vit" else {}
        return run.options | own | ({} if drop_path is None else {"drop_path_rate": drop_path})

    compare(lambda name: recipe(name).model.options, expected)


def test_transforms():
    def expected(name):
        run = RUNS[name]
        fields = {"size": run.size} | row(tables.TRANSFORMS, name)
        if family_of(name).startswith("dvt") and run.data not in KINETICS:
            fields["short_side"] = tables.MVIT_SHORT_SIDES[run.size]
        return TransformSpec(**fields)

    compare(lambda name: recipe(name).transform, expected)


def test_mixes():
    def expected(name):
        mixup, cutmix, smoothing = row(tables.MIXES, name)
        return MixSpec(mixup=mixup, cutmix=cutmix, label_smoothing=smoothing)

    compare(lambda name: recipe(name).mix, expected)


def test_epochs_batches_rates_and_clipping():
    def got(name):
        train = recipe(name).train
        return train.epochs, train.batch_size, rounded(train.learning_rate), train.clip_norm

    def expected(name):
        epochs, batch_size, rate, clip_norm = row(tables.LENGTHS, name)
        return epochs, batch_size, rounded(rate), clip_norm

    compare(got, expected)


def test_full_size_runs_are_compiled_and_of_two_byte_activations():
    def got(name):
        train = recipe(name).train
        return train.precision, train.compile, train.accumulate, train.trainable

    compare(got, lambda name: ("bfloat16", True, 1, "all"))


def test_epic_kitchens_is_learnt_by_verb_and_noun():
    two_heads = ("verb_class", "noun_class")
    compare(
        lambda name: recipe(name).train.label_sets,
        lambda name: two_heads if RUNS[name].data == "ek100" else (),
    )


def test_optimisers():
    def got(name):
        found = recipe(name).optimiser
        of_sgd = (found.momentum, found.nesterov) if found.name == "sgd" else (None, None)
        assert found.layer_decay == 1.0
        assert found.betas == (0.9, 0.999)
        return found.name, found.weight_decay, found.decay_vectors, *of_sgd

    compare(got, lambda name: row(tables.OPTIMISERS, name))


def test_schedules():
    def got(name):
        found, peak = recipe(name).schedule, recipe(name).train.learning_rate
        if found.kind == "steps":
            return found.milestones, found.factor, found.warmup_epochs
        ends = (rounded(found.warmup_start * peak), rounded(found.final_rate * peak))
        return found.warmup_epochs, *ends, found.cosine_from

    def expected(name):
        if (family_of(name), RUNS[name].data) == ("dvt_vit", "k400"):
            return (11.0, 14.0), 0.1, 0.0
        epochs, first, last, clock = row(tables.COSINES, name)
        return epochs, rounded(first), rounded(last), clock

    compare(got, expected)


def test_views():
    def expected(name):
        run = RUNS[name]
        views, side, short_side = row(tables.VIEWS, name)
        return EvaluationRecipe(
            views="1x1" if run.model in tables.ONE_VIEW else views,
            size=0 if side == 224 else side,
            short_side=short_side * run.size // 224,
            split="test" if run.data == "diving48" else "val",
        )

    compare(lambda name: recipe(name).test, expected)


def test_scores_and_datasets():
    def got(name):
        paper = recipe(name).paper
        assert re.search(r", (ICCV 2023|ECCV 2022|CVPR 2022), Table \d$", paper.source)
        assert paper.dataset in READERS
        return paper.top1, paper.top5, paper.action, paper.dataset

    def expected(name):
        run = RUNS[name]
        return run.top1, run.top5, run.action, tables.DATASETS[run.data]

    compare(got, expected)


def test_scores_are_those_of_the_catalogue():
    names = {"Kinetics-400": "k400", "Kinetics-600": "k600", "ActivityNet 1.3": "activitynet"}
    names |= {"Something-Something V1": "ssv1", "Something-Something V2": "ssv2"}
    names |= {"Diving48 V2": "diving48"}
    plain = [name for name, run in RUNS.items() if name == f"{run.model}_{run.data}"]
    compared = [name for name in plain if RUNS[name].data != "ek100"]
    assert len(compared) > 40
    for name in compared:
        figures = find_model(RUNS[name].model).figures
        known = {row.top1 for row in figures.top1 if names[row.dataset] == RUNS[name].data}
        assert RUNS[name].top1 in known, name


def test_data_settings():
    def got(name):
        data = recipe(name).data
        return data.planes, data.mode, data.short_side, data.frame_stride, data.fps

    def expected(name):
        run = RUNS[name]
        is_wide = family_of(name).startswith("sifa") and run.data in KINETICS
        short_side = 340 if is_wide else 256 * run.size // 224
        planes = ("frames", "motion") if takes_motion(name) else ("frames",)
        return planes, "canonical" if takes_motion(name) else None, short_side, 1, None

    compare(got, expected)


def test_training_and_test_clips_can_be_made():
    def got(name):
        training = clip_spec(recipe(name), network_of(name))
        testing = clip_spec(recipe(name), network_of(name), testing=True)
        motion = (training.motion is not None, testing.motion is not None)
        return training.transform.size, testing.transform.size, motion

    def expected(name):
        size = RUNS[name].size
        tested = 256 if family_of(name) == "sifa_net" else size
        return size, tested, (takes_motion(name), takes_motion(name))

    compare(got, expected)


def test_parameter_groups():
    def got(name):
        found = recipe(name)
        groups = parameter_groups(
            network_of(name), found.optimiser, learning_rate=found.train.learning_rate
        )
        return {
            key: (group["lr_share"], group["weight_decay"])
            for group in groups
            for key in group["names"]
        }

    def expected(name):
        _, decay, decay_vectors, *_ = row(tables.OPTIMISERS, name)
        return {
            key: tables.share_and_decay(
                key,
                family=family_of(name),
                model=RUNS[name].model,
                decay=decay,
                decays=decay_vectors or parameter.ndim > 1,
            )
            for key, parameter in network_of(name).named_parameters()
        }

    compare(got, expected)


@pytest.mark.parametrize(("name", "blocks"), [("pst_t_ssv2", 12), ("pst_b_k400", 24)])
def test_pst_has_the_three_groups_of_the_released_code(name, blocks):
    found = recipe(name).optimiser
    groups = parameter_groups(network_of(name), found, learning_rate=1.0)
    names = {(group["lr_share"], group["weight_decay"]): group["names"] for group in groups}
    decay = found.weight_decay
    assert names.keys() == {(1.0, 0.0), (1.0, decay), (0.1, decay)}
    assert len(names[1.0, 0.0]) == blocks
    assert names[1.0, decay] == ["head.weight", "head.bias"]
    assert "stages.0.blocks.0.attention_norm.weight" in names[0.1, decay]


def test_sections_come_in_order():
    def got(name):
        content = tomllib.loads((FOLDER / f"{name}.toml").read_text())
        return tuple(content), "weights" in content["model"]

    compare(got, lambda name: ((*SECTIONS, "paper"), False))


@pytest.mark.parametrize("name", RUNS)
def test_head_comments_say_what_to_expect_and_what_is_needed(name):
    said, found = head_comment(name), recipe(name)
    for word in ("Expected: ", "Begins with: ", "Hardware and time: ", "Data:"):
        assert said.count(word) == 1
    for score in (found.paper.top1, found.paper.top5, found.paper.action):
        assert score is None or f"{score} %" in said
    assert found.paper.source in said
    command = said[said.index("gopstream shard ") :]
    assert f"--dataset {found.paper.dataset} " in f"{command} "
    side = re.search(r"--short-side (\d+)", command)
    assert found.data.short_side == (int(side[1]) if side else 256)


def test_weights_of_the_runs_that_are_named_have_the_same_parameters():
    named = {name: re.search(r"a run of (\w+)", head_comment(name)) for name in RUNS}
    named = {name: found[1] for name, found in named.items() if found}
    assert len(named) > 25
    for name, other in named.items():
        ours = {key for key, _ in network_of(name).named_parameters()}
        assert {key for key, _ in network_of(other).named_parameters()} == ours, name


def test_directions_are_kept_where_something_something_is_flipped():
    for name in [name for name, run in RUNS.items() if run.data.startswith("ssv")]:
        transform = recipe(name).transform
        assert transform.flip == 0.0 or transform.keep_direction, name
        text = (FOLDER / f"{name}.toml").read_text()
        assert not transform.keep_direction or "orders of labels differ" in text, name


def test_mvit_recipes_say_that_repeated_augmentation_is_not_built():
    from_nothing = [
        name for name in RUNS if family_of(name) == "dvt_mvit" and RUNS[name].data == "k400"
    ]
    assert len(from_nothing) == 6
    for name in from_nothing:
        text = (FOLDER / f"{name}.toml").read_text().replace("\n# ", " ")
        assert "(repeated augmentation), which is not built" in text, name
    assert "MViT's repeated augmentation is not built" in " ".join(DOCUMENT.read_text().split())


def documented_row(name):
    """A recipe's line of the document."""
    found = recipe(name)
    paper, clip = found.paper, found.clip
    is_dense = clip.sampling.startswith("dense")
    shown = f"{clip.num_frames} x {clip.stride}" if is_dense else f"{clip.num_frames} parts"
    score = f"{paper.action} (actions)" if paper.action else f"{paper.top1}"
    score += f" / {paper.top5}" if paper.top5 else ""
    cells = [f"`{name}`", paper.dataset, f"{shown}, {found.transform.size}", score]
    cells += [found.test.views, str(found.train.batch_size), f"{found.train.learning_rate:g}"]
    cells += [f"{found.train.epochs:g}", paper.weights or "nothing"]
    return f"| {' | '.join(cells)} |"


def test_the_document_has_the_recipes_of_the_files():
    lines = DOCUMENT.read_text().splitlines()
    listed = [line for line in lines if line.startswith("| `") and line.count(" | ") == 8]
    assert sorted(listed) == sorted(map(documented_row, RUNS))


def test_the_documented_recipe_of_a_network_of_one_s_own_builds_it(tmp_path, monkeypatch):
    text = DOCUMENT.read_text()
    code, content = (
        re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1]
        for language in ("python", "toml")
    )
    (tmp_path / "my_networks.py").write_text(code)
    (tmp_path / "my_recipe.toml").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    mine = load_recipe(str(tmp_path / "my_recipe.toml"))
    built = build_network(mine, 5)
    assert built(torch.zeros(2, 3, 8, 112, 112)).shape == (2, 5)
    groups = parameter_groups(built, mine.optimiser, learning_rate=mine.train.learning_rate)
    fast = {name for group in groups if group["lr_share"] == 10.0 for name in group["names"]}
    assert fast == {"4.weight", "4.bias"}

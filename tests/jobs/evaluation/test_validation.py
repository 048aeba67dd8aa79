"""The core of evaluation and of validation, on small networks and real shards."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from gopstream.jobs.cli import main
from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluate import evaluate
from gopstream.jobs.evaluation.run_views import Looking, run_views
from gopstream.jobs.evaluation.validation import validate
from gopstream.jobs.evaluation.views import parse_views
from gopstream.jobs.labels import open_labelled, open_targets
from gopstream.jobs.network import clip_spec, input_contract, run_network
from gopstream.jobs.recipe import load_recipe
from gopstream.jobs.training.ranks import Ranks
from gopstream.models.dvt.model import DeformableVideoTransformer
from gopstream.shards import ShardDataset, View, view_batches
from gopstream.shards.errors import ShardError

ALONE = Ranks(0, 1, torch.device("cpu"))
OVERRIDES = ("train.batch_size=4", "data.short_side=64")


@pytest.fixture
def trained(make_checkpoint, tmp_path):
    """(network, recipe) of what `checkpoint.pt` in the test's folder holds."""
    network = make_checkpoint(tmp_path / "checkpoint.pt", "dvt_tiny_demo", OVERRIDES)
    return network, load_recipe("dvt_tiny_demo", OVERRIDES)


def validated(network, recipe, dataset, **options):
    settings = {
        "contract": input_contract(recipe, network),
        "spec": clip_spec(recipe, network, testing=True),
        "targets": open_targets(dataset, recipe.train.label_sets),
        "precision": "float32",
        "batch_size": 4,
        "workers": 0,
        "ranks": ALONE,
    }
    return validate(network, dataset, **settings | options)


def test_validation_is_the_mean_over_samples_of_the_central_view(trained, root):
    network, recipe = trained
    dataset = ShardDataset(root, "val")
    spec = clip_spec(recipe, network, testing=True)
    losses, hits = [], []
    for sample in range(len(dataset)):
        (batch,) = view_batches(
            dataset, spec, batch_size=1, views=[View(0, 1, 0, 1)], samples=[sample]
        )
        with torch.no_grad():
            logits = run_network(network, batch, contract=input_contract(recipe, network))
        losses.append(nn.functional.cross_entropy(logits, batch.labels).item())
        hits.append(logits.argmax().item() == batch.labels.item())
    found = validated(network, recipe, dataset)
    assert found == {
        "top1": sum(hits) / 5,
        "top5": 1.0,
        "loss": pytest.approx(sum(losses) / 5, rel=1e-5),
    }
    assert len(set(losses)) == 5


def test_validation_is_what_evaluation_finds(trained, root, tmp_path):
    network, recipe = trained
    result = evaluate(tmp_path / "checkpoint.pt", root, views="2x3")
    views = parse_views("2x3")
    found = validated(network, recipe, ShardDataset(root, "val"), views=views)
    assert found == {name: result[name] for name in ("top1", "top5", "loss")}


def test_validation_leaves_modes_and_random_numbers_as_they_are(trained, root):
    network, recipe = trained
    network.train()
    frozen = next(each for each in network.modules() if isinstance(each, nn.LayerNorm))
    frozen.eval()
    modes = [module.training for module in network.modules()]
    assert False in modes
    assert True in modes
    state = torch.get_rng_state()
    seen = []
    hook = network.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    dataset = ShardDataset(root, "val")
    found = validated(network, recipe, dataset)
    hook.remove()
    assert seen == [False] * 2
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert validated(network.eval(), recipe, dataset) == found


def test_bfloat16_is_another_precision_of_the_same(trained, root):
    network, recipe = trained
    kinds = []
    linear = [each for each in network.modules() if isinstance(each, nn.Linear)][-1]
    linear.register_forward_hook(lambda module, given, out: kinds.append(out.dtype))
    dataset = ShardDataset(root, "val")
    exact = validated(network, recipe, dataset)
    assert set(kinds) == {torch.float32}
    kinds.clear()
    rounded = validated(network, recipe, dataset, precision="bfloat16")
    assert set(kinds) == {torch.bfloat16}
    assert rounded["loss"] != exact["loss"]
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.05)


def test_a_network_that_gives_no_numbers_is_refused(trained, root):
    network, recipe = trained
    with torch.no_grad():
        next(network.parameters()).fill_(math.nan)
    with pytest.raises(UserError, match="outputs for sample val-0000"):
        validated(network, recipe, ShardDataset(root, "val"))


def test_samples_without_a_label_are_refused(root, tmp_path):
    (tmp_path / "videos").mkdir()
    shutil.copy(root.parent / "videos" / "left" / "1.mp4", tmp_path / "videos")
    words = ["shard", str(tmp_path / "videos"), "--out", str(tmp_path / "set"), "--split", "val"]
    assert main([*words, "--short-side", "64", "--workers", "1"]) == 0
    with pytest.raises(UserError, match="without a label"):
        open_labelled(ShardDataset(tmp_path / "set", "val"), ())


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 64])
def test_calls_of_any_size_see_each_sample_whole(trained, root, batch_size):
    """Six views of each sample, in calls that hold several samples or a part of one."""
    network, recipe = trained
    dataset = ShardDataset(root, "val")
    sizes = []
    seen = run_views(
        network,
        dataset,
        clip_spec(recipe, network, testing=True),
        targets=open_targets(dataset, ()),
        contract=input_contract(recipe, network),
        looking=Looking(parse_views("2x3"), "probabilities", "float32", batch_size, 0, "raise"),
        ranks=ALONE,
        change=lambda batch: sizes.append(len(batch.keys)) or batch,
    )
    assert seen.outcomes.keys == dataset.keys
    assert seen.outcomes.labels[:, 0].tolist() == dataset.labels.tolist()
    assert seen.num_skipped == 0
    assert sum(sizes) == 30
    assert max(sizes) <= batch_size


def test_a_recipe_may_say_how_large_calls_are_in_tests(make_checkpoint, root, tmp_path):
    """Of a network whose steps have more clips than it has memory for views."""
    found = {}
    for batch_size in (0, 2):  # of steps if it is 0
        sizes = []

        def note(module, given, sizes=sizes):
            if isinstance(module, DeformableVideoTransformer):
                sizes.append(len(given[0]))

        path = tmp_path / f"{batch_size}.pt"
        make_checkpoint(path, "dvt_tiny_demo", (*OVERRIDES, f"test.batch_size={batch_size}"))
        hook = register_module_forward_pre_hook(note)
        result = evaluate(path, root, views="2x1")
        hook.remove()
        found[batch_size] = (sizes, result)
    assert found[0][0] == [4, 4, 2]
    assert found[2][0] == [2, 2, 2, 2, 2]
    results = [result for _, result in found.values()]
    assert results[1] | {"loss": 0.0} == results[0] | {"loss": 0.0}
    assert results[1]["loss"] == pytest.approx(results[0]["loss"], rel=1e-6)


def test_views_of_chosen_samples_are_those_of_all(trained, root):
    network, recipe = trained
    dataset = ShardDataset(root, "val")
    spec = clip_spec(recipe, network, testing=True)
    views = parse_views("2x1")
    (whole,) = view_batches(dataset, spec, batch_size=10, views=views)
    chosen = list(view_batches(dataset, spec, batch_size=3, views=views, samples=[4, 1]))
    assert [batch.positions.tolist() for batch in chosen] == [[8, 9, 2], [3]]
    frames = torch.cat([batch.frames for batch in chosen])
    assert torch.equal(frames, whole.frames[[8, 9, 2, 3]])
    for wrong in ([5], [-1], [0.0]):
        with pytest.raises(ValueError, match="sample"):
            view_batches(dataset, spec, batch_size=3, views=views, samples=wrong)


HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
    "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory, write_video):
    """Three narrations of EPIC-KITCHENS' form, with 7 verbs and 6 nouns."""
    folder = tmp_path_factory.mktemp("kitchen")
    rows = HEADER
    for number, (verb, noun) in enumerate([(2, 5), (6, 0), (2, 3)]):
        name = f"P01_0{number}"
        path = folder / "videos" / "P01" / "videos" / f"{name}.MP4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, 30, seed=number)
        rows += (
            f"{name}_0,P01,{name},00:00:00.500,00:00:00.00,00:00:01.20,0,30,do it,do,{verb},it,"
            f"{noun},['it'],[{noun}]\n"
        )
    lists = folder / "lists"
    lists.mkdir()
    for name in ("train", "validation"):
        (lists / f"EPIC_100_{name}.csv").write_text(rows)
    for name, word, count in (("verb", "verb-", 7), ("noun", "noun-", 6)):
        names = "".join(f"{number},{word}{number},[],x\n" for number in range(count))
        text = "id,key,instances,category\n" + names
        (lists / f"EPIC_100_{name}_classes.csv").write_text(text)
    words = ["shard", str(folder / "videos"), "--out", str(folder / "set"), "--split", "val"]
    words += ["--annotations", str(lists / "EPIC_100_validation.csv")]
    assert main([*words, "--short-side", "64", "--workers", "1"]) == 0
    return folder / "set"


def test_verbs_and_nouns_are_scored_apart_and_together(make_checkpoint, kitchen, tmp_path, capsys):
    words = (*OVERRIDES, 'train.label_sets=["verb_class", "noun_class"]')
    network = make_checkpoint(tmp_path / "run.pt", "dvt_tiny_demo", words, dataset=kitchen)
    out = ["--out", str(tmp_path / "out"), "--predictions", "jsonl"]
    command = ["evaluate", str(tmp_path / "run.pt"), "--data", str(kitchen), *out, "--report"]
    assert main([*command, "--json", str(tmp_path / "result.json")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("action top-1 ")
    assert "; verb_class top-1 " in said
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["sets"]) == {"verb_class", "noun_class"}
    assert result["chance"] == pytest.approx(1 / 42)
    assert len(result["sets"]["verb_class"]["confusion"]) == 7
    assert [row["metric"] for row in result["report"]["rows"]] == [
        f"{name} top-{top}" for name in ("action", "verb_class", "noun_class") for top in (1, 5)
    ]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {"confusion_verb_class.csv", "confusion_noun_class.csv"}
    assert names == tables | {"predictions.jsonl", "summary.json"}
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    labels = ["verb-2 noun-5", "verb-6 noun-0", "verb-2 noun-3"]
    assert sorted(row["label_action"] for row in rows) == sorted(labels)
    for row in rows:
        verb, noun = row["top5_verb_class"][0], row["top5_noun_class"][0]
        assert row["top5_action"][0] == f"{verb} {noun}"
        shares = row["probabilities_verb_class"][0], row["probabilities_noun_class"][0]
        assert row["probabilities_action"][0] == pytest.approx(shares[0] * shares[1])
    hits = sum(row["label_action"] == row["top5_action"][0] for row in rows)
    assert result["top1"] == pytest.approx(hits / 3)
    recipe = load_recipe("dvt_tiny_demo", words)
    dataset = ShardDataset(kitchen, "val")
    found = validated(network, recipe, dataset)
    assert found == {name: result[name] for name in ("top1", "top5", "loss")}


@pytest.fixture
def damaged(root, tmp_path):
    """The dataset, of whose second sample the last picture is damaged; and that sample's key."""
    shutil.copytree(root, tmp_path / "damaged")
    dataset = ShardDataset(tmp_path / "damaged", "val")
    (jpeg,) = dataset.read_jpegs(1, np.array([29]))
    held = bytes(jpeg)
    for path in (tmp_path / "damaged").rglob("*.tar"):
        content = path.read_bytes()
        if held in content:
            path.write_bytes(content.replace(held, held[:-9] + bytes(9)))
    return tmp_path / "damaged", dataset.key(1)


@pytest.mark.parametrize("batch_size", [2, 6, 64])
def test_a_sample_counts_only_if_all_its_views_can_be_read(trained, root, damaged, batch_size):
    """The last of three clips is damaged, in its three crops; the other clips are not."""
    words = (*OVERRIDES, f"train.batch_size={batch_size}", "clip.stride=3", "test.views=3x3")
    words += ("clip.view_rule=ends",)
    copy, key = damaged
    network, recipe = trained[0], load_recipe("dvt_tiny_demo", words)
    views = parse_views("3x3")
    spec = clip_spec(recipe, network, testing=True)
    found = {}
    for place in (root, copy):
        dataset = ShardDataset(place, "val")
        found[place] = run_views(
            network,
            dataset,
            spec,
            targets=open_targets(dataset, ()),
            contract=input_contract(recipe, network),
            looking=Looking(views, "probabilities", "float32", batch_size, 0, "skip"),
            ranks=ALONE,
        )
    whole, rest = found[root], found[copy]
    assert (whole.num_skipped, whole.reason) == (0, "")
    assert rest.num_skipped == 1
    assert key in rest.reason
    kept = [row for row, each in enumerate(whole.outcomes.keys) if each != key]
    assert rest.outcomes.keys == [whole.outcomes.keys[row] for row in kept]
    assert rest.outcomes.losses == pytest.approx(whole.outcomes.losses[kept], rel=1e-6)
    with pytest.raises(ShardError, match=key):
        validated(network, recipe, ShardDataset(copy, "val"), views=views)
    skipping = validated(network, recipe, ShardDataset(copy, "val"), views=views, on_error="skip")
    assert skipping["loss"] == pytest.approx(rest.outcomes.losses.mean().item(), rel=1e-6)

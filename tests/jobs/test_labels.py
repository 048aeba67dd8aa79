"""What a network learns to say: classes, or several label sets at once."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from gopstream.jobs.checkpoint import load_checkpoint
from gopstream.jobs.cli import main
from gopstream.jobs.errors import UserError
from gopstream.jobs.labels import LabelSet, Targets, check_labels, open_targets, split_outputs
from gopstream.jobs.recipe import load_recipe
from gopstream.jobs.train import Watching, train
from gopstream.shards.loading.batch import ClipBatch
from gopstream.shards.reader import ShardDataset

SETS = ("verb_class", "noun_class")
VERBS, NOUNS = 97, 300
LABELS = [(3, 0), (3, 1), (5, 7), (0, 299)]


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_video):
    """Four segments of a video, each with a verb and a noun."""
    folder = tmp_path_factory.mktemp("labels")
    videos = folder / "P01" / "videos"
    videos.mkdir(parents=True)
    path = write_video(videos / "P01_01.mp4", 48, rate=12, width=64, height=64)
    path.rename(videos / "P01_01.MP4")
    header = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
        "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,"
        "all_noun_classes"
    )
    rows = [
        f"P01_01_{n},P01,P01_01,00:00:00.00,00:00:0{n}.00,00:00:0{n + 1}.00,1,2,open,open,{verb},"
        f"door,{noun},\"['door']\",[{noun}]"
        for n, (verb, noun) in enumerate(LABELS)
    ]
    (folder / "EPIC_100_train.csv").write_text("\r\n".join([header, *rows]) + "\r\n")
    words = ["shard", str(folder), "--out", str(folder / "set"), "--short-side", "64"]
    words += ["--annotations", str(folder / "EPIC_100_train.csv"), "--dataset", "epic_kitchens100"]
    assert main([*words, "--workers", "1"]) == 0
    return folder / "set"


@pytest.fixture
def dataset(root):
    return ShardDataset(root, "train")


def batch_of(keys):
    count = len(keys)
    return ClipBatch(
        labels=torch.arange(count),
        keys=keys,
        positions=torch.arange(count),
        is_repeat=torch.zeros(count, dtype=torch.bool),
    )


def change_column(root, name, values):
    """Give a dataset's samples other values of a column."""
    path = root / "train" / "samples.parquet"
    table = pyarrow.parquet.read_table(path)
    column = pa.array(values, pa.int64())
    table = table.set_column(table.column_names.index(name), name, column)
    pyarrow.parquet.write_table(table, path)


def test_the_labels_of_a_batch_are_those_of_its_samples(dataset):
    targets = open_targets(dataset, SETS)
    assert [labels.name for labels in targets.sets] == list(SETS)
    assert targets.num_outputs == VERBS + NOUNS
    of_key = {}
    for position, key in enumerate(dataset.keys):
        start = dataset.read_json(position)["window"]["start_seconds"]
        of_key[key] = LABELS[round(start)]
    keys = [dataset.keys[position] for position in (2, 0, 3, 2)]
    verbs, nouns = targets.of(batch_of(keys))
    assert verbs.dtype == nouns.dtype == torch.int64
    assert list(zip(verbs.tolist(), nouns.tolist(), strict=True)) == [of_key[key] for key in keys]


def test_the_order_of_the_sets_is_the_recipes(dataset):
    targets = open_targets(dataset, SETS[::-1])
    nouns, verbs = targets.of(batch_of(list(dataset.keys)))
    assert sorted(zip(verbs.tolist(), nouns.tolist(), strict=True)) == sorted(LABELS)


def test_classes_come_with_the_batch():
    targets = Targets((LabelSet("", ("a", "b", "c")),), None, None)
    assert targets.num_outputs == 3
    batch = batch_of(["x", "y"])
    assert targets.of(batch)[0] is batch.labels


def test_outputs_are_parted_in_the_order_of_the_sets():
    sets = (LabelSet("one", ("a", "b")), LabelSet("two", ("c", "d", "e")))
    first, second = split_outputs(torch.arange(10).reshape(2, 5), sets)
    assert first.tolist() == [[0, 1], [5, 6]]
    assert second.tolist() == [[2, 3, 4], [7, 8, 9]]


def test_a_label_set_that_is_not_there_is_refused(dataset):
    with pytest.raises(UserError, match=r"no label set 'verb_clas'.*verb_class.*noun_class"):
        open_targets(dataset, ["verb_clas"])


def copied(root, tmp_path):
    return shutil.copytree(root, tmp_path / "set")


def test_a_sample_without_a_label_of_the_set_is_refused(root, tmp_path):
    other = copied(root, tmp_path)
    change_column(other, "noun_class", [1, None, 2, 3])
    with pytest.raises(UserError, match="train: label set noun_class: a sample has no label of it"):
        open_targets(ShardDataset(other, "train"), SETS)


@pytest.mark.parametrize("label", [NOUNS, -1])
def test_a_label_without_a_name_is_refused(root, tmp_path, label):
    other = copied(root, tmp_path)
    change_column(other, "noun_class", [1, label, 2, 3])
    with pytest.raises(UserError, match="noun_class"):
        open_targets(ShardDataset(other, "train"), SETS)


def test_a_dataset_without_classes_is_refused(dataset):
    """Segments of EPIC-KITCHENS have label sets and no class."""
    if dataset.classes and not dataset.num_unlabelled:
        check_labels(dataset)
    else:
        with pytest.raises(UserError, match="without a label"):
            check_labels(dataset)


def test_a_network_learns_both_sets(root, tmp_path):
    words = ["train.steps=1", "train.batch_size=4", "train.log_every=1", "schedule.warmup_steps=0"]
    words += ['train.label_sets=["verb_class", "noun_class"]', "clip.stride=1"]
    outcome = train(
        load_recipe("dvt_tiny_demo", words),
        root,
        out=tmp_path / "run",
        watching=Watching(tensorboard=False),
    )
    content = load_checkpoint(tmp_path / "run")
    assert [(name, len(classes)) for name, classes in content["sets"]] == [
        ("verb_class", VERBS),
        ("noun_class", NOUNS),
    ]
    assert content["model"]["head.weight"].shape[0] == VERBS + NOUNS
    assert outcome.loss == pytest.approx(np.log(VERBS) + np.log(NOUNS), rel=0.1)

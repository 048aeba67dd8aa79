"""Other labels beside a dataset: they are those of the list, and never of other samples."""

import shutil

import numpy as np
import pyarrow.parquet
import pytest

from gopstream.jobs.remove_samples import remove_samples
from gopstream.pipeline.errors import AnnotationError
from gopstream.shards.dataset_files import load_manifest, save_manifest
from gopstream.shards.edit_labels import read_label_list, write_label_view
from gopstream.shards.edit_planes import drop_plane
from gopstream.shards.errors import FormatError, SettingsError, ShardError
from gopstream.shards.label_view import LEFT_OUT, load_label_view
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.reader import ShardDataset


@pytest.fixture
def samples(dataset_root):
    return pyarrow.parquet.read_table(dataset_root / "train" / "samples.parquet").to_pylist()


@pytest.fixture
def write(own_root, tmp_path):
    """Return a function: (CSV text, ...) -> (label names per sample, classes)."""

    def write(text, *, name="verbs", **words):
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding="utf-8")
        storage = LocalStorage(own_root)
        write_label_view(storage, name, read_label_list(path), splits=["train"], **words)
        view = load_label_view(storage, "train", name)
        names = [
            None if label == LEFT_OUT else "-" if label == -1 else view.classes[label]
            for label in view.labels.tolist()
        ]
        return names, view.classes

    return write


OLD = ("left", "right")


def test_by_class_the_order_of_the_old_classes_stays(write, samples):
    names, classes = write("class,label\nright,to the right\n")
    assert classes == ("left", "to the right")
    assert names == [("left", "to the right")[row["label"]] for row in samples]


def test_two_classes_become_one(write, samples):
    names, classes = write("class,label\nright,sideways\nleft,sideways\n")
    assert classes == ("sideways",)
    assert names == ["sideways"] * len(samples)


def test_an_empty_label_leaves_out(write, samples):
    names, classes = write("class,label\nleft,\n")
    assert classes == ("right",)
    assert names == [(None, "right")[row["label"]] for row in samples]


def test_only_what_is_listed(write, samples):
    names, classes = write("class,label\nright,right\n", only=True)
    assert classes == ("right",)
    assert names == [(None, "right")[row["label"]] for row in samples]


def test_by_key_the_others_keep_their_class(write, samples):
    key = samples[2]["key"]
    names, classes = write(f'key,label\n{key},"jump, high"\n')
    assert classes == (*OLD, "jump, high")
    wanted = [OLD[row["label"]] for row in samples]
    wanted[2] = "jump, high"
    assert names == wanted


def test_by_source_all_segments_change(write, samples):
    source = next(row["source"] for row in samples if row["key"].count("-") == 2)
    names, classes = write(f"source,label\n{source},wave\n", only=True)
    assert classes == ("wave",)
    assert names == ["wave" if row["source"] == source else None for row in samples]
    assert names.count("wave") == 2


def test_the_kept_samples_are_those_of_the_dataset(write, own_root, samples):
    write("class,label\nleft,\nright,up\n")
    view = load_label_view(LocalStorage(own_root), "train", "verbs")
    wanted = [row["key"] for row in samples if OLD[row["label"]] == "right"]
    assert (view.labels != LEFT_OUT).sum() == len(wanted)
    dataset = ShardDataset(own_root, "train", labels="verbs")
    assert dataset.keys == wanted
    assert dataset.labels.tolist() == [0] * len(wanted)


def test_a_dataset_opens_with_other_labels(write, own_root, samples):
    write("class,label\nleft,\nright,up\n")
    plain = ShardDataset(own_root, "train")
    dataset = ShardDataset(own_root, "train", labels="verbs")
    kept = [number for number, row in enumerate(samples) if OLD[row["label"]] == "right"]
    assert dataset.classes == ("up",)
    assert len(dataset) == len(kept) == len(dataset.labels)
    assert dataset.labels.tolist() == [0] * len(kept)
    assert dataset.keys == [samples[number]["key"] for number in kept]
    for position, number in enumerate(kept):
        assert dataset.read_json(position) == plain.read_json(number)
        assert dataset.name_of(position) == plain.name_of(number)
        flags = dataset.frame_flags(position)
        assert flags.tolist() == plain.frame_flags(number).tolist()
    with pytest.raises(IndexError, match=f"of {len(kept)}"):
        dataset.sample(len(kept))


def test_byte_order_mark_and_crlf_are_read(write, samples):
    names, _ = write("\ufeffclass,label\r\nright,r\r\n")
    assert "r" in names


def test_no_other_file_is_touched(dataset_root, own_root, write):
    write("class,label\nleft,\n")
    for path in dataset_root.rglob("*"):
        if path.is_file():
            assert (own_root / path.relative_to(dataset_root)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("key,label\ntrain-00000099,x\n", "has no key 'train-00000099'"),
        ("source,label\nnone.mp4,x\n", "has no source 'none.mp4'"),
        ("class,label\nup,x\n", "has no class 'up'"),
        ("class,label\nleft,x\nleft,y\n", ":3: 'left' is listed twice"),
        ("name,label\nleft,x\n", "key,label or source,label"),
        ("key,source,label\na,b,c\n", "key,label or source,label"),
        ("class,label\n", "there are no labels"),
        ("class\nleft\n", "label"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(own_root, write, text, said):
    with pytest.raises(AnnotationError, match=said):
        write(text)
    assert not (own_root / "labels").exists()


@pytest.mark.parametrize("name", ["a.b", "../x", "", "residual"])
def test_a_name_that_cannot_be_used_is_refused(write, name):
    with pytest.raises(SettingsError, match="name"):
        write("class,label\nleft,\n", name=name)


def test_after_a_removal_the_view_is_refused_and_can_be_made_again(own_root, write, samples):
    storage = LocalStorage(own_root)
    write("class,label\nright,r\n")
    gone = samples[-1]["key"]
    remove_samples(storage, keys=[gone])
    with pytest.raises(SettingsError, match=r"shard 000001 were removed.*relabel' again"):
        load_label_view(storage, "train", "verbs")
    names, _ = write("class,label\nright,r\n")
    assert len(names) == len(samples) - 1


def test_appended_samples_are_counted(own_root, write):
    """As after --append: the manifest has one more shard than the view knows."""
    storage = LocalStorage(own_root)
    whole = load_manifest(storage, "train")
    names, _ = write("class,label\nright,r\n")
    path = own_root / "labels" / "verbs.train.npz"
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    first = whole.shards[0].num_samples
    arrays["labels"] = arrays["labels"][:first]
    for name in ("shards", "shard_samples", "shard_sha256"):
        arrays[name] = arrays[name][:1]
    np.savez(path, **arrays)
    with pytest.raises(SettingsError, match=f"{whole.shards[1].num_samples} samples were appended"):
        load_label_view(storage, "train", "verbs")


def test_planes_may_come_and_go(own_root, write):
    storage = LocalStorage(own_root)
    write("class,label\nright,r\n")
    before = load_label_view(storage, "train", "verbs")
    drop_plane(storage, "residual", ["train"])
    after = load_label_view(storage, "train", "verbs")
    assert after.labels.tolist() == before.labels.tolist()


def test_samples_in_another_order_than_the_manifest_are_refused(own_root, write):
    manifest = load_manifest(own_root, "train")
    save_manifest(own_root, type(manifest)("train", manifest.shards[::-1], {}, 5, 0))
    with pytest.raises(FormatError, match="list other samples"):
        write("class,label\nright,r\n")


def test_what_is_not_there_is_named(own_root, write):
    storage = LocalStorage(own_root)
    with pytest.raises(ShardError, match="no labels 'verbs'"):
        load_label_view(storage, "train", "verbs")
    write("class,label\nright,r\n")
    with pytest.raises(ShardError, match="not for the split 'val'"):
        load_label_view(storage, "val", "verbs")


def test_other_classes_than_those_of_other_splits_are_refused(own_root, tmp_path, write):
    storage = LocalStorage(own_root)
    shutil.copytree(own_root / "train", own_root / "val")
    path = tmp_path / "l.csv"
    path.write_text("class,label\nright,r\n")
    splits = ["train", "val"]
    write_label_view(storage, "verbs", read_label_list(path), splits=splits, chosen=["train"])
    path.write_text("class,label\nright,q\n")
    with pytest.raises(SettingsError, match="train have other classes"):
        write_label_view(storage, "verbs", read_label_list(path), splits=splits, chosen=["val"])
    # As left by a relabelling of all splits that was interrupted after the first.
    (own_root / "labels" / "verbs.json").write_bytes(
        (own_root / "labels" / "verbs.json").read_bytes().replace(b'"r"', b'"q"')
    )
    with pytest.raises(SettingsError, match="other classes"):
        load_label_view(storage, "train", "verbs")


def test_a_damaged_view_is_refused(own_root, write):
    write("class,label\nright,r\n")
    path = own_root / "labels" / "verbs.train.npz"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole.replace(b"labels.npy", b"lapels.npy")):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"verbs\.train\.npz"):
            load_label_view(LocalStorage(own_root), "train", "verbs")

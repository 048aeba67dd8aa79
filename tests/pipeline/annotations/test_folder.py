import pytest

from gopstream.pipeline.annotations import read_annotations
from gopstream.pipeline.errors import AnnotationError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def read(folder, **options):
    chosen = {"annotations": None, "dataset": None, "split": "train"} | options
    return read_annotations(folder, **chosen)


def test_class_is_the_first_part_at_any_depth(tmp_path):
    touch(tmp_path, "b/1.mp4", "a/deep/er/2.mp4", "a/1.mp4")
    found = read(tmp_path, split="val")
    assert [(r.name, r.label, r.split) for r in found.records] == [
        ("a/1.mp4", "a", "val"),
        ("a/deep/er/2.mp4", "a", "val"),
        ("b/1.mp4", "b", "val"),
    ]
    assert found.classes == ("a", "b")
    assert found.records[1].path == tmp_path / "a/deep/er/2.mp4"


def test_flat_folder_has_no_labels(tmp_path):
    found = read(touch(tmp_path, "2.mp4", "1.txt"))
    assert [(r.name, r.label) for r in found.records] == [("1.txt", None), ("2.mp4", None)]
    assert found.classes == ()


def test_hidden_files_and_folders_are_left_out(tmp_path):
    found = read(touch(tmp_path, ".DS_Store", "a/.hidden.mp4", ".cache/x.mp4", "a/1.mp4"))
    assert [r.name for r in found.records] == ["a/1.mp4"]
    assert found.classes == ("a",)


def test_hidden_part_above_the_folder_does_not_matter(tmp_path):
    folder = touch(tmp_path / ".home" / "videos", "a/1.mp4")
    assert len(read(folder).records) == 1


def test_files_beside_class_folders_are_refused(tmp_path):
    touch(tmp_path, "a/1.mp4", "stray.mp4")
    with pytest.raises(AnnotationError, match=r"files beside them \(stray\.mp4\)"):
        read(tmp_path)
    touch(tmp_path, "zz.mp4")
    with pytest.raises(AnnotationError, match=r"\(stray\.mp4 and others\)"):
        read(tmp_path)


def test_empty_folder_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(AnnotationError, match="holds no files"):
        read(tmp_path)


def test_folder_takes_no_annotations(tmp_path):
    with pytest.raises(AnnotationError, match="without --annotations"):
        read(tmp_path, annotations=tmp_path / "a.csv", dataset="folder")


def test_unknown_forms_are_refused(tmp_path):
    with pytest.raises(AnnotationError, match="unknown dataset 'kinetics'; known are folder, csv"):
        read(tmp_path, dataset="kinetics")
    with pytest.raises(AnnotationError, match=r"list\.tsv: cannot tell .* --dataset"):
        read(tmp_path, annotations=tmp_path / "list.tsv")

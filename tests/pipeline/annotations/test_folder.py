import pytest

from gopstream.pipeline.errors import AnnotationError


def test_class_is_the_first_part_at_any_depth(mini):
    mini.touch("b/1.mp4", "a/deep/er/2.mp4", "a/1.mp4")
    found = mini.read(split="val")
    assert [(r.name, r.label, r.split) for r in found.records] == [
        ("a/1.mp4", "a", "val"),
        ("a/deep/er/2.mp4", "a", "val"),
        ("b/1.mp4", "b", "val"),
    ]
    assert found.classes == ("a", "b")
    assert found.missing == found.notes == ()


def test_flat_folder_has_no_labels(mini):
    mini.touch("2.mp4", "1.txt")
    found = mini.read()
    assert [(r.name, r.label) for r in found.records] == [("1.txt", None), ("2.mp4", None)]
    assert found.classes == ()


def test_hidden_files_and_folders_are_left_out(mini):
    mini.touch(".DS_Store", "a/.hidden.mp4", ".cache/x.mp4", "a/b/.c/x.mp4", "a/1.mp4")
    found = mini.read()
    assert [r.name for r in found.records] == ["a/1.mp4"]
    assert found.classes == ("a",)


def test_classes_file_sets_order_and_knows_all_labels(mini):
    mini.touch("a/1.mp4", "b/1.mp4")
    names = mini.write("classes.txt", "b\n\nunseen\na\n")
    assert mini.read(classes_file=names).classes == ("b", "unseen", "a")
    names = mini.write("classes.txt", "b\n")
    with pytest.raises(AnnotationError, match=r"a/1\.mp4: unknown label 'a': not in .*classes"):
        mini.read(classes_file=names)


def test_files_beside_class_folders_are_refused(mini):
    mini.touch("a/1.mp4", "stray.mp4")
    with pytest.raises(AnnotationError, match=r"files beside them \(stray\.mp4\)"):
        mini.read()
    mini.touch("zz.mp4")
    with pytest.raises(AnnotationError, match=r"\(stray\.mp4 and others\)"):
        mini.read()


def test_name_that_is_no_text_is_refused(mini):
    with pytest.raises(AnnotationError, match="expected a UTF-8 name"):
        mini.read(list_files=lambda root: ["a/\udcff.mp4"])


def test_empty_folder_and_unneeded_list_are_refused(mini):
    (mini.videos / "a").mkdir()
    with pytest.raises(AnnotationError, match="holds no files"):
        mini.read()
    with pytest.raises(AnnotationError, match="without --annotations"):
        mini.read("a.csv", "folder")

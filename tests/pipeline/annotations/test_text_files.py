"""What is said of a list that is not the one expected, and how much of it is quoted."""

import json

import pytest

from gopstream.pipeline.annotations.text_files import cut
from gopstream.pipeline.errors import AnnotationError

ENTRIES = [{"id": str(number), "label": "x, y"} for number in range(20_000)]
_JSON = "this looks like JSON; is it the list of another dataset. --dataset says which$"
_TEXT = "this looks like CSV or text; is it the list of another dataset. --dataset says which$"


def message(mini, content, *, dataset, name="list", **options):
    with pytest.raises(AnnotationError) as caught:
        mini.read(mini.write(name, content), dataset, **options)
    return str(caught.value).replace(str(mini.root), "")


@pytest.mark.parametrize("dataset", ["kinetics400", "ssv1", "epic_kitchens100", "ucf101", "csv"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_for_text_is_said(mini, dataset, indent):
    classes = mini.write("classes.txt", "x\n")
    for content in (ENTRIES, {"database": ENTRIES}):
        text = "\ufeff\n" + json.dumps(content, indent=indent)
        with pytest.raises(AnnotationError, match=_JSON) as caught:
            mini.read(mini.write("list", text), dataset, classes_file=classes)
        assert len(str(caught.value).replace(str(mini.root), "")) < 250


@pytest.mark.parametrize("dataset", ["ssv2", "diving48", "activitynet"])
def test_text_for_json_is_said(mini, dataset):
    classes = mini.write("classes.txt", "x\n")
    with pytest.raises(AnnotationError, match=_TEXT):
        mini.read(mini.write("list", "path,label\na.mp4,x\n"), dataset, classes_file=classes)


@pytest.mark.parametrize("content", [b"", b"\n", b"PAR1\0\0"])
def test_nothing_is_guessed_of_empty_and_binary_files(mini, content):
    assert ": expected JSON (" in message(mini, content, dataset="diving48")


def test_paths_may_begin_with_brackets(mini):
    text = "[1]a.mp4 0\n{b}.mp4 0\n[{c}].mp4 0\n"
    lines = text.splitlines(keepends=True)
    for order in (lines, lines[::-1]):
        found = mini.read(mini.write("list.txt", "".join(order)), "kinetics400")
        assert {r.name for r in found.records} == {"[1]a.mp4", "{b}.mp4", "[{c}].mp4"}


def test_text_is_cut_at_80_characters():
    assert cut("x" * 80) == "x" * 80
    assert cut("x" * 81) == "x" * 80 + "..."


LONG = "q" * 5_000


@pytest.mark.parametrize(
    ("dataset", "content"),
    [
        ("kinetics400", LONG),
        ("kinetics400", f"label,youtube_id,time_start,time_end\nx,y,{LONG},2\n"),
        ("kinetics400", f"label,youtube_id,time_start,time_end\nx,y,{'1' * 300},2\n"),
        ("kinetics400", f"youtube_id,{LONG}\n"),
        ("csv", f"path,label\n../{LONG},x\n"),
        ("csv", f"path,label\na\0{LONG},x\n"),
        ("csv", f"path,label,split\na.mp4,x,/{LONG}\n"),
        ("csv", f"path,label,{LONG}\na.mp4\n"),
        ("csv", f"path,label\na.mp4,{LONG}\n"),
        ("ssv1", f"1;{LONG}\n"),
        ("ssv2", json.dumps([{"id": [LONG]}])),
        ("ssv2", json.dumps([LONG])),
        ("ssv2", f'[{{"{LONG}": 1, "{LONG}": 1}}]'),
        ("activitynet", json.dumps({"database": {"a": {"subset": LONG}}})),
        ("ucf101", LONG),
        (
            "epic_kitchens100",
            f"narration_id,video_id,start_timestamp,stop_timestamp,narration,verb_class,noun_class"
            f"\nn,v,0:0:{LONG},2,n,0,0\n",
        ),
        (
            "epic_kitchens100",
            f"narration_id,video_id,start_timestamp,stop_timestamp,narration,verb_class,noun_class"
            f"\nn,v,0:0:1,0:0:2,n,{LONG},0\n",
        ),
    ],
)
def test_long_text_of_a_list_is_not_printed_whole(mini, dataset, content):
    classes = mini.write("classes.txt", "x\n")
    text = message(mini, content, dataset=dataset, classes_file=classes)
    assert "..." in text and len(text) < 330


def test_long_text_of_further_files_is_not_printed_whole(mini):
    node = {"nodeName": "x", "parentName": None}
    video = {
        "subset": "training",
        "duration": 1.0,
        "annotations": [{"label": "x", "segment": [LONG]}],
    }
    content = json.dumps({"taxonomy": [node], "database": {"a": video}})
    texts = [message(mini, content, dataset="activitynet")]
    folder = mini.write("splits/x_test_split1.txt", LONG).parent
    with pytest.raises(AnnotationError) as caught:
        mini.read(folder, "hmdb51")
    texts.append(str(caught.value))
    mini.write("classInd.txt", LONG)
    texts.append(message(mini, "x/a.avi 1", dataset="ucf101"))
    header = "narration_id,video_id,start_timestamp,stop_timestamp\n"
    rows = f"{LONG},v,0:0:1,0:0:2\n{LONG},v,0:0:2,0:0:3\n"
    classes = mini.write("classes.txt", "x\n")
    name = "EPIC_100_test_timestamps.csv"
    texts.append(message(mini, header + rows, dataset=None, name=name, classes_file=classes))
    assert all("..." in text and "q" * 81 not in text for text in texts)


def test_long_class_names_are_not_printed_whole(mini):
    classes = mini.write("classes.txt", f"{LONG}\n{LONG}\n")
    text = message(mini, "path,label\na.mp4,x\n", dataset="csv", classes_file=classes)
    assert "is there twice" in text and len(text) < 330

"""A condition means in Arrow what it means when it is read aloud, and nothing else is ever run."""

import operator

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gopstream.shards.where import WhereError, column_kind, compile_where

ROWS = [
    {"key": "a-0", "label": 0, "frames": 3, "fps": 25.0, "codec": "h264", "good": True, "id": 1},
    {"key": "a-1", "label": 1, "frames": 300, "fps": 29.97, "codec": "hevc", "good": False},
    {"key": "a-2", "label": -1, "frames": 70_000, "fps": 2.5, "codec": None, "good": None},
    {"key": "a-3", "label": 1, "frames": -7, "fps": None, "codec": "h264", "good": True, "id": 9},
]
SCHEMA = pa.schema(
    {"key": pa.string(), "label": pa.int64(), "frames": pa.int32(), "fps": pa.float64()}
    | {"codec": pa.string(), "good": pa.bool_(), "id": pa.int64()}
)
CLASSES = ("falls", "jumps")


def chosen(text, rows=ROWS, schema=SCHEMA):
    condition = compile_where(text, schema, classes=CLASSES)
    table = pa.Table.from_pylist(rows, schema).append_column("row", pa.array(range(len(rows))))
    return table.filter(condition.expression).column("row").to_pylist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("frames > 3", [1, 2]),
        ("frames >= 3 and frames < 400", [0, 1]),
        ("3 <= frames < 300", [0]),
        ("0 < frames <= 300 != label", [0, 1]),
        ("frames == 3 or codec == 'hevc'", [0, 1]),
        ("not frames > 3", [0, 3]),
        ("frames > 2.5", [0, 1, 2]),
        ("fps == 25", [0]),
        ("frames > -7.5", [0, 1, 2, 3]),
        ("frames == -7", [3]),
        ("frames < +4", [0, 3]),
        ("frames / fps > 10", [1, 2]),
        ("frames / 2 == 1.5", [0]),
        ("frames * frames > 4e9", [2]),  # int32 would wrap around
        ("-frames > 0", [3]),
        ("frames - 1 + 2 * 3 == 8", [0]),
        ("codec in ['h264', 'av1']", [0, 3]),
        ("codec not in ['h264', 'av1']", [1]),
        ("frames in (3, 4, -7)", [0, 3]),
        ("frames in {3.0, 299.5}", [0]),
        ("frames in []", []),
        ("label in ['jumps', 0]", [0, 1, 3]),
        ("label == 'jumps'", [1, 3]),
        ("'jumps' != label", [0, 2]),
        ("label == 1", [1, 3]),
        ("good", [0, 3]),
        ("not good", [1]),
        ("good == False", [1]),
        ("good is None", [2]),
        ("codec is None", [2]),
        ("codec is not None and id is None", [1]),
        ("codec != 'h264'", [1]),
        ("not codec == 'h264'", [1]),
        ("not (codec == 'h264' and fps > 1)", [1]),
        ("codec == 'h264' or fps > 1", [0, 1, 2, 3]),
        ("key > 'a-1'", [2, 3]),
        ("frames < 99999999999999999999999", [0, 1, 2, 3]),
        ("frames > -" + "9" * 400, [0, 1, 2, 3]),
        ("True", [0, 1, 2, 3]),
        ("(frames > 3) == (label == 1)", [0, 1]),
        (" frames\n > 3 ", [1, 2]),
    ],
)
def test_a_condition_chooses(text, rows):
    assert chosen(text) == rows


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("duraton > 3", "there is no column 'duraton' .did you mean"),
        ("frmes > 3", r"no column 'frmes' \(did you mean 'frames'"),
        ("Frames > 3", "did you mean 'frames'"),
        ("label == 'jump'", r"no class 'jump' for the column 'label' \(did you mean 'jumps'"),
        ("label in ['fals']", "did you mean 'falls'"),
        ("label > 'jumps'", "they cannot be compared"),
        ("frames = 3", "use == to compare"),
        ("frames == '3'", "'frames' is a number, \"'3'\" is text; they cannot be compared"),
        ("codec > 3", "'codec' is text, '3' is a number"),
        ("codec in [3]", "they cannot be compared"),
        ("frames in ['a']", "they cannot be compared"),
        ("frames == None", "None is compared with 'is'"),
        ("frames is 3", "'is' compares with None alone"),
        ("frames in key", "'in' needs a list"),
        ("frames in [fps]", "the list of 'in' holds numbers and 'text', not 'fps'"),
        ("frames", "'frames' is a number, not a condition"),
        ("3", "not a condition"),
        ("codec + 'x' == 'h264x'", "'codec' is text; a number is needed"),
        ("-codec == 3", "'codec' is text; a number is needed"),
        ("frames > 3 & fps > 3", "write 'and' and 'or'"),
        ("frames > 3 and", "not a condition"),
        ("", "not a condition"),
        ("frames % 2 == 0", "'frames % 2' is not possible here"),
        ("len(key) > 3", r"'len\(key\)' is not possible here"),
        ("__import__('os').system('true') == 0", "is not possible here"),
        ("key.upper() == 'A'", "is not possible here"),
        ("key[0] == 'a'", "is not possible here"),
        ("[x for x in key]", "is not possible here"),
        ("(lambda: 1)", "is not possible here"),
        ("frames if good else fps", "is not possible here"),
        ("(frames := 3) > 1", "is not possible here"),
        ("f'{key}' == 'a'", "is not possible here"),
        ("frames > 3j", "is not possible here"),
        ("key == b'a-0'", "is not possible here"),
        ("frames > 3\nfps", "not a condition"),
        ("frames > \0", "not a condition"),
        ("(" * 1000 + "frames" + ")" * 1000 + " > 3", "not a condition"),
        ("not " * 900 + "good", "too long"),
        ("frames > 3 or " * 400 + "good", "too many"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_text(text, problem):
    with pytest.raises(WhereError, match=problem) as caught:
        compile_where(text, SCHEMA, classes=CLASSES)
    assert "where=" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("codec == h264", "no column 'h264'; if it is a text, write it in quotes: \"h264\"$"),
        ("h264 != codec", 'quotes: "h264"$'),
        ("frames > 3 and codec in ['av1', h264]", 'quotes: "h264"$'),
        ("label == jumps", 'quotes: "jumps"$'),
        ("frames == h264", r"no column 'h264' \(did you mean"),
        ("codac == h264", r"no column 'codac' \(did you mean 'codec'\?\)"),
        ("good == true", "write True, not 'true'"),
        ("codec is null", "'is' compares with None alone"),
        ("codec == NULL", "quotes: \"NULL\"; a missing value is found by 'is None'$"),
        ("frames == null", "write None, not 'null'"),
        ("frames > 3 AND fps < 9", r"syntax at 'AND fps < 9'\); write 'and', .* lower case$"),
        ("frames > 3 and NOT good", r"at 'good'\); .* lower case$"),
        ("codec IS None", "lower case$"),
        ("frames > 3 && fps < 9", r"at '& fps < 9'\); write 'and' and 'or'$"),
        ("class == 'jumps'", r"at 'class == 'jumps''|column of the class is called 'label'$"),
        ("frames <> 3", "write != for"),
        ("frames = 3", "use == to compare$"),
        ("frames = 3 AND class", "called 'label'; write 'and', .* lower case; use == to compare$"),
        ("codec == 'AND = class' oops", r"at .*\); write comparisons of columns"),
        ("frames > 3 and", r"syntax at its end\); write comparisons"),
        ("  frames > 3 )" + " " * 30 + "and 1", r"at '\) {19}'\.\.\.\); write"),
    ],
)
def test_the_place_of_a_slip_and_what_to_write_instead_are_said(text, problem):
    with pytest.raises(WhereError, match=problem):
        compile_where(text, SCHEMA, classes=CLASSES)


def test_a_column_of_text_may_still_be_compared_with_another():
    assert chosen("codec == key") == []
    assert chosen("key != codec") == [0, 1, 3]


def test_many_values_in_a_list_are_not_too_long():
    assert chosen(f"frames in {list(range(600))}") == [0, 1]


def test_the_columns_that_are_read_are_those_of_the_text():
    condition = compile_where("fps > 3 and codec == 'key'", SCHEMA, classes=())
    assert condition.columns == ("codec", "fps")


def test_stored_labels_are_refused_beside_other_ones():
    with pytest.raises(WhereError, match="choose by class with classes="):
        compile_where("label == 1", SCHEMA, classes=CLASSES, has_own_labels=False)


def test_columns_of_other_types_are_compared_with_none_alone():
    schema = pa.schema({"day": pa.date32(), "tags": pa.list_(pa.string())})
    for text in ("day > 3", "tags == 'a'", "day in [3]"):
        with pytest.raises(WhereError, match="cannot be compared|compared with None"):
            compile_where(text, schema, classes=())
    rows = [{"day": None, "tags": ["a"]}, {"day": 3, "tags": None}]
    assert chosen("day is None", rows, schema) == [0]
    assert chosen("tags is not None", rows, schema) == [0]


def test_texts_may_be_stored_in_several_ways():
    for kind in (pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        schema = pa.schema({"codec": kind})
        assert column_kind(kind) == "text"
        assert chosen("codec in ['b'] or codec > 'b'", [{"codec": c} for c in "abc"], schema) == [
            1,
            2,
        ]


NUMBERS = st.one_of(
    st.integers(-(2**31), 2**31 - 1), st.floats(allow_nan=False, allow_infinity=False, width=32)
)
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
SIGNS |= {"==": operator.eq, "!=": operator.ne}


@given(
    value=st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)),
    number=NUMBERS,
    sign=st.sampled_from(sorted(SIGNS)),
)
def test_numbers_compare_as_in_python(value, number, sign):
    wanted = value is not None and SIGNS[sign](value, number)
    assert chosen(f"frames {sign} {number!r}", [{"frames": value}]) == [0] * wanted


@given(text=st.text(max_size=30))
def test_any_text_gives_a_condition_or_a_where_error(text):
    try:
        condition = compile_where(text, SCHEMA, classes=CLASSES)
    except WhereError:
        return
    assert isinstance(condition.expression, pc.Expression)

from dataclasses import replace

import pytest

from gopstream.jobs.plan import make_part, order_videos, table_ids
from gopstream.jobs.plan_files import (
    check_same_part,
    load_parts,
    merged_attribute_types,
    save_part,
)
from gopstream.pipeline.annotations.record import VideoRecord
from gopstream.shards.errors import FormatError, SettingsError
from gopstream.shards.storage import open_storage

CLASSES = ("run", "sit", "walk")


def make_records(count, *, label=lambda number: CLASSES[number % 3], **others):
    return [
        VideoRecord(f"{n}.mp4", label(n), "train", attributes={"n": n}, **others)
        for n in range(count)
    ]


def plan_of(records, *, videos_per_shard=64, seed=0, limit=None, kind="first", first_index=0):
    table = order_videos(records, classes=CLASSES, seed=seed, limit=limit, first_index=first_index)
    return make_part(table, kind=kind, seed=seed, limit=limit, videos_per_shard=videos_per_shard)


def videos_of(part):
    return [video for shard in part.shards() for video in shard.videos]


@pytest.mark.parametrize("videos_per_shard", [1, 7, 64, 1000])
@pytest.mark.parametrize("count", [1, 16, 17, 100, 1030])
def test_each_video_once_and_balanced(count, videos_per_shard):
    part = plan_of(make_records(count), videos_per_shard=videos_per_shard)
    videos = videos_of(part)
    assert sorted(v.name for v in videos) == sorted(f"{n}.mp4" for n in range(count))
    assert [v.index for v in videos] == list(range(count))
    shards = list(part.shards())
    assert [shard.name for shard in shards] == [f"{n:06d}" for n in range(len(shards))]
    assert [shard.name for shard in shards] == part.shard_names
    sizes = [len(shard.videos) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert 1 <= min(sizes) <= max(sizes) <= videos_per_shard
    assert len(shards) == -(-count // videos_per_shard)


def test_order_of_the_list_does_not_matter():
    records = make_records(50)
    shuffled = records[::-1][10:] + records[::-1][:10]
    assert plan_of(shuffled).table == plan_of(records).table
    assert plan_of(shuffled).list_sha256 == plan_of(records).list_sha256


def test_seed_changes_the_order():
    first, second = (videos_of(plan_of(make_records(50), seed=seed)) for seed in (0, 1))
    assert [v.name for v in first] != [v.name for v in second]
    assert [v.name for v in first] != sorted(v.name for v in first)


def test_order_is_pinned():
    """Whoever changes the shuffle changes every published dataset."""
    names = [video.name for video in videos_of(plan_of(make_records(6)))]
    assert names == ["5.mp4", "2.mp4", "0.mp4", "3.mp4", "1.mp4", "4.mp4"]


def test_a_limit_takes_the_beginning_of_the_whole_order():
    whole = [video.name for video in videos_of(plan_of(make_records(50)))]
    assert [video.name for video in videos_of(plan_of(make_records(50), limit=7))] == whole[:7]


def test_segments_of_one_video_are_spread_and_kept_apart():
    times = [(float(n), float(n + 2)) for n in range(20)]
    records = [VideoRecord("long.mp4", None, "train", start, end) for start, end in times]
    videos = videos_of(plan_of(records))
    assert sorted((v.start_seconds, v.end_seconds) for v in videos) == times
    assert [v.start_seconds for v in videos] != sorted(v.start_seconds for v in videos)
    assert sorted(table_ids(plan_of(records).table)) == [("long.mp4", *pair) for pair in times]


def test_labels_and_attributes():
    for video in videos_of(plan_of(make_records(10, picture_rate=12.0))):
        number = int(video.name.removesuffix(".mp4"))
        assert video.class_name == CLASSES[number % 3]
        assert video.label == number % 3
        assert video.attributes == {"n": number}
        assert video.picture_rate == 12.0


def test_no_label_is_minus_one():
    video = videos_of(plan_of(make_records(1, label=lambda _: None)))[0]
    assert (video.label, video.class_name) == (-1, None)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1, 2], "int64"),
        ([1, 2.5], "double"),
        ([1, None], "int64"),
        ([True, False], "bool"),
        ([1, "a"], "string"),
        ([True, 1], "string"),
        ([None, None], "null"),
        ([2**60 + 1, 1], "large int64"),
        ([2**60 + 1, 0.5], "string"),
        ([2**63], "string"),
    ],
)
def test_a_column_has_a_type_that_holds_all_its_values(values, found):
    records = [
        VideoRecord(f"{n}.mp4", None, "train", attributes={"x": value})
        for n, value in enumerate(values)
    ]
    types = plan_of(records).attribute_types
    assert types == {"x": found}


def test_types_of_several_parts_are_merged():
    parts = [
        plan_of([VideoRecord("a", None, "train", attributes={"x": value, "y": 1})])
        for value in (1, 0.5)
    ]
    assert merged_attribute_types(parts) == {"x": "double", "y": "int64"}


def test_a_plan_of_an_earlier_version_is_named(tmp_path):
    storage = open_storage(tmp_path)
    storage.write("train/plan.json", b'{"format":1,"shards":[{"name":"000000","videos":[]}]}')
    with pytest.raises(FormatError, match="made by an earlier version"):
        load_parts(storage, "train")


def test_saved_parts_come_back(tmp_path):
    storage = open_storage(tmp_path)
    assert load_parts(storage, "train") == []
    first = plan_of(make_records(9), videos_per_shard=4)
    later = replace(plan_of(make_records(2), kind="append", first_index=9, limit=5), first_shard=3)
    save_part(storage, "train", 0, first)
    save_part(storage, "train", 1, later)
    assert load_parts(storage, "train") == [first, later]
    assert later.shard_names == ["000003"]
    assert [v.index for v in videos_of(later)] == [9, 10]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "plan.parquet").write_bytes(b"x"), r"plan\.json: not a plan"),
        (lambda folder: (folder / "plan.parquet").unlink(), r"plan\.json: not a plan"),
        (lambda folder: (folder / "plan.json").write_text("{}"), "format version None"),
        (lambda folder: (folder / "plan.json").unlink(), r"plan\.json is missing"),
        (
            lambda folder: (folder / "plan.parquet").write_bytes(
                (folder / "plan-0001.parquet").read_bytes()
            ),
            "says 9 videos",
        ),
    ],
)
def test_damaged_plan_is_named(tmp_path, damage, reason):
    storage = open_storage(tmp_path)
    save_part(storage, "train", 0, plan_of(make_records(9)))
    save_part(storage, "train", 1, plan_of(make_records(3)))
    damage(tmp_path / "train")
    with pytest.raises(FormatError, match=reason):
        load_parts(storage, "train")


HELD = plan_of(make_records(9), videos_per_shard=4)


def test_the_same_plan_is_recognised():
    check_same_part("here", HELD, plan_of(make_records(9)[::-1], videos_per_shard=4))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (plan_of(make_records(10), videos_per_shard=4), r"9 then, 10 now: '9\.mp4' is new"),
        (plan_of(make_records(8), videos_per_shard=4), r"9 then, 8 now: '8\.mp4' is gone"),
        (
            plan_of(
                [*make_records(9), VideoRecord("0.mp4", "run", "train", 1.0, 2.5)],
                videos_per_shard=4,
            ),
            r"'0\.mp4' from 1\.0 to 2\.5 s is new",
        ),
        (plan_of(make_records(9), videos_per_shard=4, seed=1), "--seed was 0, now it is 1"),
        (plan_of(make_records(9), videos_per_shard=2), "--videos-per-shard was 4, now it is 2"),
        (
            plan_of(make_records(9), videos_per_shard=4, limit=9),
            "--limit was not given, now it is 9",
        ),
        (
            plan_of(make_records(9, label=lambda _: "run"), videos_per_shard=4),
            r"[0-9]\.mp4 had label [12], now it is 0",
        ),
        (
            plan_of(make_records(9, picture_rate=12.0), videos_per_shard=4),
            "had picture_rate None, now it is 12.0",
        ),
    ],
)
def test_other_plan_is_refused(other, difference):
    with pytest.raises(SettingsError, match=difference):
        check_same_part("here", HELD, other)

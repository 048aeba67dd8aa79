from pathlib import Path

import pytest

from gopstream.jobs.plan import check_same_plan, make_plan, save_plan
from gopstream.pipeline.annotations.record import VideoRecord
from gopstream.shards.errors import SettingsError

CLASSES = ("run", "sit", "walk")


def make_records(count, *, label=lambda number: CLASSES[number % 3]):
    return [
        VideoRecord(Path("v") / f"{n}.mp4", f"{n}.mp4", label(n), "train", {"n": str(n)})
        for n in range(count)
    ]


def plan_of(records, *, videos_per_shard=None, seed=0):
    return make_plan(records, classes=CLASSES, videos_per_shard=videos_per_shard, seed=seed)


def videos_of(plan):
    return [video for shard in plan for video in shard.videos]


@pytest.mark.parametrize("videos_per_shard", [None, 1, 7, 64, 1000])
@pytest.mark.parametrize("count", [1, 16, 17, 100, 1030])
def test_each_video_once_and_balanced(count, videos_per_shard):
    plan = plan_of(make_records(count), videos_per_shard=videos_per_shard)
    videos = videos_of(plan)
    assert sorted(v.name for v in videos) == sorted(f"{n}.mp4" for n in range(count))
    assert [v.index for v in videos] == list(range(count))
    assert [shard.name for shard in plan] == [f"{n:06d}" for n in range(len(plan))]
    sizes = [len(shard.videos) for shard in plan]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    assert max(sizes) <= (videos_per_shard or 64)
    if videos_per_shard:
        assert len(plan) == -(-count // videos_per_shard)


def test_short_lists_are_spread():
    assert len(plan_of(make_records(32))) == 16
    assert len(plan_of(make_records(5))) == 5


def test_order_of_the_list_does_not_matter():
    records = make_records(50)
    shuffled = records[::-1][10:] + records[::-1][:10]
    assert plan_of(shuffled, videos_per_shard=8) == plan_of(records, videos_per_shard=8)


def test_seed_changes_the_order():
    first, second = (videos_of(plan_of(make_records(50), seed=seed)) for seed in (0, 1))
    assert [v.name for v in first] != [v.name for v in second]
    assert [v.name for v in first] != sorted(v.name for v in first)


def test_order_is_pinned():
    """Whoever changes the shuffle changes every published dataset."""
    names = [video.name for video in videos_of(plan_of(make_records(6)))]
    assert names == ["5.mp4", "2.mp4", "0.mp4", "3.mp4", "1.mp4", "4.mp4"]


def test_labels_and_attributes():
    for video in videos_of(plan_of(make_records(10))):
        number = int(video.name.removesuffix(".mp4"))
        assert video.class_name == CLASSES[number % 3]
        assert video.label == number % 3
        assert video.attributes == {"n": str(number)}


def test_no_label_is_minus_one():
    video = videos_of(plan_of(make_records(1, label=lambda _: None)))[0]
    assert (video.label, video.class_name) == (-1, None)


def test_saved_plan_is_recognised(tmp_path):
    plan = plan_of(make_records(9), videos_per_shard=4)
    assert not check_same_plan(tmp_path, plan)
    save_plan(tmp_path, plan)
    assert check_same_plan(tmp_path, plan)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (plan_of(make_records(10), videos_per_shard=4), r"9 then, 10 now: '9\.mp4' is new"),
        (plan_of(make_records(8), videos_per_shard=4), r"9 then, 8 now: '8\.mp4' is gone"),
        (plan_of(make_records(9), videos_per_shard=4, seed=1), "another --seed"),
        (plan_of(make_records(9), videos_per_shard=2), "videos per shard differ"),
        (plan_of(make_records(9, label=lambda _: "run"), videos_per_shard=4), "labels, attributes"),
    ],
)
def test_other_plan_is_refused(tmp_path, other, difference):
    save_plan(tmp_path, plan_of(make_records(9), videos_per_shard=4))
    before = (tmp_path / "plan.json").read_bytes()
    with pytest.raises(SettingsError, match=difference):
        check_same_plan(tmp_path, other)
    assert (tmp_path / "plan.json").read_bytes() == before

"""A shard without a sample has the bytes of a shard that never had it."""

import hashlib
from dataclasses import replace

import pytest

from gopstream.pipeline.extract import extract_segments
from gopstream.shards.edit_index import SideMember, add_residual, drop_residual, move_members
from gopstream.shards.edit_shard import remove_from_shard
from gopstream.shards.encoding import Piece
from gopstream.shards.errors import DamageError
from gopstream.shards.index import MAIN_TAR, index_bytes, load_index
from gopstream.shards.local_storage import LocalStorage
from gopstream.shards.writer import ShardWriter

KEYS = ("train-00000000", "train-00000001-0000", "train-00000001-0001", "train-00000002")


@pytest.fixture(scope="module")
def clips(videos, options):
    """Four clips of three sizes."""
    paths = sorted(videos.rglob("*.mp4"))[:3]
    found = [clip for path in paths for clip in extract_segments(path, options=options)]
    return dict(zip(KEYS, found, strict=False))


def write(root, clips, keys, *, with_residual=True):
    storage = LocalStorage(root)
    with ShardWriter(storage, "train", "000000", with_residual=with_residual) as writer:
        for key in keys:
            writer.add(key, clips[key], label=1, facts={"source": key})
        report = [
            {"video": 0, "source": "s", "label": 1, "status": "done", "samples": [{"key": key}]}
            for key in keys
        ]
        writer.publish(report)
    return storage


def hashes(root):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (root / "train").iterdir()
        if "report" not in path.name
    }


@pytest.mark.parametrize(
    "gone",
    [KEYS[:1], KEYS[1:2], KEYS[3:], KEYS[1:3], (KEYS[0], KEYS[3]), KEYS],
    ids=["first", "middle", "last", "two", "both ends", "all"],
)
def test_it_is_as_if_the_sample_had_never_been_there(clips, tmp_path, gone):
    storage = write(tmp_path / "edited", clips, KEYS)
    remove_from_shard(storage, "train", "000000", gone)
    write(tmp_path / "without", clips, [key for key in KEYS if key not in gone])
    assert hashes(tmp_path / "edited") == hashes(tmp_path / "without")


def test_without_a_residual_too(clips, tmp_path):
    clips = {key: replace(clip, residual=None) for key, clip in clips.items()}
    storage = write(tmp_path / "edited", clips, KEYS[:2], with_residual=False)
    remove_from_shard(storage, "train", "000000", KEYS[:1])
    write(tmp_path / "without", clips, KEYS[1:2], with_residual=False)
    assert hashes(tmp_path / "edited") == hashes(tmp_path / "without")


def test_an_unknown_key_changes_nothing(clips, tmp_path):
    storage = write(tmp_path, clips, KEYS)
    before = hashes(tmp_path)
    remove_from_shard(storage, "train", "000000", ["train-00000001"])
    assert hashes(tmp_path) == before


def test_a_missing_tar_is_named(clips, tmp_path):
    storage = write(tmp_path, clips, KEYS)
    (tmp_path / "train" / "000000.residual.tar").unlink()
    with pytest.raises(DamageError, match=r"000000\.residual\.tar"):
        remove_from_shard(storage, "train", "000000", KEYS[:1])


def test_a_tar_that_ends_early_is_an_error_not_a_shorter_shard(clips, tmp_path):
    """Cut behind a whole member, it looks like a tar with fewer of them."""
    storage = write(tmp_path, clips, KEYS)
    index = load_index(storage, "train/000000.index.npz")
    path = tmp_path / "train" / "000000.tar"
    cut = int(index.member_offset[index.member_sample == 3][0]) - 512
    with path.open("r+b") as file:
        file.truncate(cut)
        file.seek(cut)
        file.write(bytes(10240))
    with pytest.raises(DamageError, match="train-00000002"):
        remove_from_shard(storage, "train", "000000", KEYS[:1])


def test_a_residual_that_is_dropped_and_added_gives_the_same_index(clips, tmp_path):
    storage = write(tmp_path, clips, KEYS)
    index = load_index(storage, "train/000000.index.npz")
    members = []
    for row in (index.member_tar == 1).nonzero()[0].tolist():
        suffix = index.member_names[index.member_kind[row]].decode()
        sample, offset = int(index.member_sample[row]), int(index.member_offset[row])
        table, pieces = index.residual, []
        if suffix == "residual.zst":
            pieces = [
                Piece(
                    int(table.first_frame[i]),
                    int(table.num_frames[i]),
                    int(table.offset[i]) - offset,
                    int(table.length[i]),
                    int(table.crc32[i]),
                )
                for i in range(table.start[sample], table.start[sample + 1])
            ]
        length, crc32 = int(index.member_length[row]), int(index.member_crc32[row])
        members.append(SideMember(sample, suffix, offset, length, crc32, pieces))
    without = drop_residual(index)
    assert not (without.member_tar == 1).any()
    assert index_bytes(without) != index_bytes(index)
    assert index_bytes(add_residual(without, members)) == index_bytes(index)
    assert index_bytes(add_residual(index, members)) == index_bytes(index)


def test_members_move_only_where_the_tar_has_them(clips, tmp_path):
    storage = write(tmp_path, clips, KEYS)
    index = load_index(storage, "train/000000.index.npz")
    with pytest.raises(DamageError, match=r"train-00000000\.frames\.mjpeg"):
        move_members(index, MAIN_TAR, {})

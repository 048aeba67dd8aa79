import os

import pytest

from gopstream.jobs.digest_cache import cached_digest
from gopstream.pipeline.source_digest import source_digest


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "long.mp4"
    path.write_bytes(bytes(10_000_000))
    return path


def digest_and_work(path, folder):
    """Return the digest, and whether the file was read for it."""
    beats = []
    return cached_digest(path, folder, on_progress=lambda: beats.append(1)), bool(beats)


def test_a_video_is_hashed_once(video, tmp_path):
    folder = tmp_path / "known"
    folder.mkdir()
    want = source_digest(video, on_progress=lambda: None)
    assert digest_and_work(video, folder) == (want, True)
    assert digest_and_work(video, folder) == (want, False)
    assert not list(folder.glob(".*"))


def test_a_changed_video_is_hashed_again(video, tmp_path):
    folder = tmp_path / "known"
    folder.mkdir()
    first, _ = digest_and_work(video, folder)
    state = video.stat()
    content = bytearray(video.read_bytes())
    content[5] = 1
    video.write_bytes(content)
    os.utime(video, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    second, was_read = digest_and_work(video, folder)
    assert was_read
    assert second.sha256 != first.sha256
    assert second == source_digest(video, on_progress=lambda: None)


@pytest.mark.parametrize("folder", [None, "gone"])
def test_without_a_folder_nothing_is_known(video, tmp_path, folder):
    place = None if folder is None else tmp_path / folder
    assert digest_and_work(video, place)[1]
    assert digest_and_work(video, place)[1]

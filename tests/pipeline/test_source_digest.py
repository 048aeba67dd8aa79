import hashlib

import pytest

from gopstream.pipeline.errors import NotAVideoError
from gopstream.pipeline.source_digest import source_digest

JPEG = b"\xff\xd8\xff"


def test_a_file_is_its_sha256_and_its_size(small_video):
    content = small_video.read_bytes()
    found = source_digest(small_video, on_progress=lambda: None)
    assert found == (hashlib.sha256(content).hexdigest(), len(content))


def test_a_long_file_shows_that_it_goes_on(tmp_path):
    path = tmp_path / "long"
    content = bytes(range(256)) * (20 << 12)  # 20 MiB
    path.write_bytes(content)
    beats = []
    found = source_digest(path, on_progress=lambda: beats.append(None))
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.num_bytes == 20 << 20
    assert len(beats) >= 3  # at least every 8 MiB


def test_a_folder_is_the_list_of_its_pictures_by_number(tmp_path):
    names = ["9.jpg", "10.jpg", "011.JPEG"]
    for name in reversed(names):
        (tmp_path / name).write_bytes(JPEG + name.encode())
    lines = "".join(
        f"{name} {hashlib.sha256(JPEG + name.encode()).hexdigest()}\n" for name in names
    )
    found = source_digest(tmp_path, on_progress=lambda: None)
    assert found.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert found.num_bytes == sum(3 + len(name) for name in names)
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert source_digest(tmp_path, on_progress=lambda: None) == found
    (tmp_path / "9.jpg").rename(tmp_path / "8.jpg")
    assert source_digest(tmp_path, on_progress=lambda: None) != found


def test_what_cannot_be_hashed_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        source_digest(tmp_path / "none", on_progress=lambda: None)
    with pytest.raises(NotAVideoError, match="no numbered JPEG"):
        source_digest(tmp_path, on_progress=lambda: None)


def test_a_progress_function_stops_it(small_video):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source_digest(small_video, on_progress=stop)

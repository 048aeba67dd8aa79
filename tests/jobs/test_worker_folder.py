import fcntl
import os
import subprocess
import sys
import tempfile

import pytest

from gopstream.jobs.worker_folder import WorkerFolder, hold_folder, remove_leftovers


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def make_leftover(temporary, name="gopstream-worker-abcdefgh"):
    folder = temporary / name
    folder.mkdir()
    (folder / "half a video").touch()
    return folder


def test_folder_nobody_holds_is_removed(temporary):
    make_leftover(temporary)
    remove_leftovers()
    assert list(temporary.iterdir()) == []


def test_held_folder_stays_until_its_last_holder_is_gone(temporary):
    folder = WorkerFolder()
    hold = "import sys, pathlib; from gopstream.jobs.worker_folder import hold_folder\n"
    hold += "hold_folder(pathlib.Path(sys.argv[1])); print('held', flush=True); input()"
    worker = subprocess.Popen(
        [sys.executable, "-c", hold, folder.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdout.readline() == b"held\n"
    (folder.path / "file").touch()
    os.close(folder._lock)  # as when the parent has been killed
    folder._lock = None
    remove_leftovers()
    assert (folder.path / "file").exists()
    worker.kill()
    worker.communicate()
    remove_leftovers()
    assert not folder.path.exists()
    folder.remove()


def test_own_folder_stays_until_removed(temporary):
    folder = WorkerFolder()
    remove_leftovers()
    assert folder.path.exists()
    folder.remove()
    folder.remove()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "gopstream-worker-",
        "gopstream-worker-abcdefgh.bak",
        "gopstream-worker-abcdefghi",
        "gopstream",
    ],
)
def test_other_names_stay(temporary, name):
    make_leftover(temporary, name)
    remove_leftovers()
    assert (temporary / name / "half a video").exists()


def test_links_are_not_followed(temporary, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    (temporary / "gopstream-worker-abcdefgh").symlink_to(tmp_path / "thesis")
    folder = make_leftover(temporary, "gopstream-worker-00000000")
    (folder / "link").symlink_to(tmp_path / "thesis")
    remove_leftovers()
    assert not folder.exists()
    assert (tmp_path / "thesis" / "chapter").exists()


def test_nothing_is_removed_where_others_can_rename_our_folders(temporary):
    folder = make_leftover(temporary)
    temporary.chmod(0o777)
    remove_leftovers()
    assert folder.exists()
    temporary.chmod(0o1777)  # as /tmp is
    remove_leftovers()
    assert not folder.exists()


def test_folders_of_others_stay(temporary, monkeypatch):
    folder = make_leftover(temporary)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    remove_leftovers()
    assert folder.exists()


def test_folder_that_is_being_removed_cannot_be_held(temporary):
    folder = make_leftover(temporary)
    remover = os.open(folder, os.O_RDONLY)
    fcntl.flock(remover, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        hold_folder(folder)
    os.close(remover)
    os.close(hold_folder(folder))

"""A folder of empty videos, lists beside it, and a reader that reads them as a user would."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gopstream.pipeline.annotations import read_annotations
from gopstream.pipeline.annotations.record import VideoList


def list_local_files(root: str) -> list[str]:
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return sorted(path.relative_to(root).as_posix() for path in files)


@dataclass
class Miniature:
    """A dataset in small: ``videos/`` and ``lists/``."""

    root: Path

    @property
    def videos(self) -> Path:
        return self.root / "videos"

    def touch(self, *names: str) -> None:
        for name in names:
            path = self.videos / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.root / "lists" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def read_before_and_after(self, *files: str, annotations, dataset=None) -> list[str | None]:
        """Return the paths of the records once ``files`` have come, which changed nothing else."""
        before = self.read(annotations, dataset)
        assert {record.path for record in before.records} == {None}
        assert set(before.missing) == {record.name for record in before.records}
        self.touch(*files)
        after = self.read(annotations, dataset)
        assert [replace(record, path=None) for record in after.records] == list(before.records)
        assert after.classes == before.classes
        assert set(before.missing) - set(after.missing) == {
            record.name for record in after.records if record.path is not None
        }
        return [record.path for record in after.records]

    def read(self, annotations=None, dataset=None, **options) -> VideoList:
        chosen = {"split": "train", "list_files": list_local_files} | options
        return read_annotations(self.videos, annotations=annotations, dataset=dataset, **chosen)


@pytest.fixture
def mini(tmp_path: Path) -> Miniature:
    (tmp_path / "videos").mkdir()
    return Miniature(tmp_path)

"""What commands that change a finished dataset must know of its shards' files first."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final

from gopstream.shards.dataset_files import FileRecord, load_manifest, load_shard_files
from gopstream.shards.errors import DamageError, SettingsError
from gopstream.shards.layout import MANIFEST_FILE, files_name
from gopstream.shards.storage import Storage

_READ_AT_ONCE: Final = 32


def check_changeable(storage: Storage, splits: Sequence[str]) -> None:
    """Refuse to change a dataset whose shards have no records of their files.

    Splits that are not finished are passed over.

    Raises:
        SettingsError: If it was made before there were such records.
        DamageError: If some shards have one and others do not.
    """
    for split in splits:
        names = set(storage.list_names(split))
        if MANIFEST_FILE not in names:
            continue
        records = [files_name(shard.name) for shard in load_manifest(storage, split).shards]
        missing = [name for name in records if name not in names]
        where = f"{storage.url}/{split}"
        if missing and len(missing) == len(records):
            raise SettingsError(
                f"{where}: made by an earlier version of gopstream (there is no {missing[0]}): it "
                "can be read and verified, not changed"
            )
        if missing:
            raise DamageError(f"{where}/{missing[0]}: is missing; run 'gopstream verify'")


def read_files(
    storage: Storage, split: str, shards: Sequence[str]
) -> Iterator[dict[str, FileRecord]]:
    """Yield the record of each shard's files, in order; some are on their way at a time.

    Args:
        storage: Of the dataset.
        split: Name of the split.
        shards: Their names.
    """
    rest = iter(shards)
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        while some := list(islice(rest, _READ_AT_ONCE)):
            yield from pool.map(lambda name: load_shard_files(storage, split, name), some)

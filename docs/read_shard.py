"""Decode a sample of a shard without gopstream: read_shard.py SPLIT/000000.tar [KEY]."""

import hashlib
import io
import json
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import zstandard
from PIL import Image


def pieces(member: bytes, table: dict[str, list[int]]) -> list[bytes]:
    """Cut a member by its table, and check each piece."""
    found = [member[o : o + n] for o, n in zip(table["offset"], table["length"], strict=True)]
    assert [zlib.crc32(piece) for piece in found] == table["crc32"], "damaged"
    return found


def unpack(member: bytes, table: dict[str, list[int]], dtype: str) -> np.ndarray:
    """Decompress chunk by chunk: a plain decompress() would return only the first."""
    chunks = map(zstandard.ZstdDecompressor().decompress, pieces(member, table))
    return np.frombuffer(b"".join(chunks), dtype)


def read_sample(tar: Path, key: str) -> dict[str, np.ndarray]:
    """Return every plane of a sample, by name."""
    members, arrays = {}, {}
    for path in filter(Path.exists, (tar, tar.with_suffix(".residual.tar"))):
        with tarfile.open(path) as archive:
            for name in (name for name in archive.getnames() if name.startswith(f"{key}.")):
                members[name[len(key) + 1 :]] = archive.extractfile(name).read()
    for name, plane in json.loads(members["json"])["planes"].items():
        member = members[plane["member"]]
        if name == "frames":  # (J, H, W, 3) RGB; the json's frame_index_of_jpeg says which
            jpegs = map(io.BytesIO, pieces(member, plane["jpegs"]))
            arrays[name] = np.stack([np.asarray(Image.open(jpeg)) for jpeg in jpegs])
        else:  # motion (T, L, Hb, Wb, 2) and coverage (T, L, Hb, Wb)
            arrays[name] = unpack(member, plane["chunks"], plane["dtype"]).reshape(plane["shape"])
    if "residual.json" in members:  # (T, Y then Cb then Cr), signed; decoded minus predicted
        side = json.loads(members["residual.json"])
        flat = unpack(members[side["member"]], side["chunks"], side["dtype"]).astype("<i2")
        arrays["residual"] = flat.reshape(side["frames"], -1)
        starts = np.cumsum([0, *(height * width for _, height, width in side["planes"])])
        for frame, plane, y, x, value in side["exceptions"]:  # what int8 cannot hold
            arrays["residual"][frame, starts[plane] + y * side["planes"][plane][2] + x] = value
        arrays["exceptions"] = np.array(side["exceptions"], "<i4").reshape(-1, 5)
    return arrays


if __name__ == "__main__":
    with tarfile.open(sys.argv[1]) as archive:
        keys = sys.argv[2:] or [archive.getnames()[0].split(".")[0]]
    for name, plane in read_sample(Path(sys.argv[1]), keys[0]).items():
        print(name, plane.shape, plane.dtype.str, hashlib.sha256(plane.tobytes()).hexdigest())

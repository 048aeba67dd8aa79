"""The sequential road: what webdataset lets pass in silence is an error here."""

import functools
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import webdataset

from gopstream.jobs.preprocess import shard_folder
from gopstream.jobs.sharding_job import PlanChoice
from gopstream.shards.errors import DamageError, ShardError
from gopstream.shards.sequential import StreamedSample, read_shards

# A process of its own, as a rank of a run is; webdataset asks the environment for its place.
READ_AS_RANK = """
import sys
from gopstream.shards.sequential import read_shards
print(*(sample.key for sample in read_shards(sys.argv[1:], planes=[])))
"""


@pytest.fixture(scope="session")
def tars(dataset_root):
    return sorted((dataset_root / "train").glob("[0-9]*[0-9].tar"))


@pytest.fixture(scope="session")
def truth(tars):
    """Members of all samples by key, in order, by Python's own tar reader."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in tars:
        with tarfile.open(path) as archive:
            for info in archive:
                key, _, suffix = info.name.partition(".")
                samples.setdefault(key, {})[suffix] = archive.extractfile(info).read()
    return samples


@pytest.fixture(scope="session")
def web(dataset_root):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path.endswith("cut.tar"):  # promises more than it sends
                content = (dataset_root / "train" / "000000.tar").read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.connection.close()
            else:
                super().do_GET()

    handler = functools.partial(Quiet, directory=str(dataset_root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def keys(urls, **options):
    return [sample.key for sample in read_shards(urls, planes=[], **options)]


def offsets(path):
    """(header, content, length) of each member."""
    with tarfile.open(path) as archive:
        return [(info.offset, info.offset_data, info.size) for info in archive]


def damaged(tmp_path, content):
    path = tmp_path / "000000.tar"
    path.write_bytes(content)
    return path


def test_samples_are_those_of_the_tar_in_its_order(tars, truth):
    samples = list(read_shards(tars))
    assert [sample.key for sample in samples] == list(truth)
    for sample in samples:
        assert isinstance(sample, StreamedSample)
        members = truth[sample.key]
        assert b"".join(sample.frames) == members["frames.mjpeg"]
        assert len(sample.frames) == len(sample.json["frame_index_of_jpeg"])
        assert all(jpeg[:2] == b"\xff\xd8" for jpeg in sample.frames)
        assert sample.label == int(members["cls"])
        assert sample.json == json.loads(members["json"])
        assert Path(sample.url) in tars


def test_arrays_are_those_that_the_indexed_reader_gives(dataset_root, tars):
    from gopstream.shards.reader import ShardDataset

    dataset = ShardDataset(dataset_root, "train")
    for position, sample in enumerate(read_shards(tars)):
        last = dataset.sample(position).num_frames - 1
        window = dataset.read_motion(position, 0, last)
        assert sample.motion.dtype == np.int16
        assert sample.coverage.dtype == np.uint8
        np.testing.assert_array_equal(sample.motion, window.motion)
        np.testing.assert_array_equal(sample.coverage, window.coverage)


def test_frames_are_decoded_on_request(tars):
    plain, decoded = (next(iter(read_shards(tars, decode_frames=on))) for on in (False, True))
    width, height = plain.json["frame_size"]
    assert decoded.frames.shape == (len(plain.frames), height, width, 3)
    np.testing.assert_array_equal(decoded.frames[1], simplejpeg.decode_jpeg(plain.frames[1]))


def test_only_the_planes_that_were_asked_for_are_decoded(tars):
    sample = next(iter(read_shards(tars, planes=["motion"])))
    assert sample.frames is None
    assert sample.coverage is None
    assert sample.motion is not None


def test_an_unknown_plane_and_an_empty_list_are_refused(tars):
    with pytest.raises(ValueError, match="frames, motion, coverage; got 'residual'"):
        read_shards(tars, planes=["residual"])
    with pytest.raises(ValueError, match="no shards"):
        read_shards([])


@pytest.fixture(scope="module")
def tar_without_frames(tmp_path_factory, videos, options):
    root = tmp_path_factory.mktemp("motion") / "set"
    choice = PlanChoice(limit=1)
    shard_folder(videos, root, options=replace(options, planes=("motion",)), choice=choice)
    return root / "train" / "000000.tar"


def test_a_plane_that_was_asked_for_and_is_not_there_is_an_error(tar_without_frames):
    with pytest.raises(
        ShardError,
        match=r"sample train-\d+\S*: there is no plane 'frames'; leave it out: "
        r"planes=\('motion', 'coverage'\)",
    ):
        next(iter(read_shards(tar_without_frames)))
    with pytest.raises(ShardError, match=r"no plane 'frames'; leave it out: planes=\(\)"):
        next(iter(read_shards(tar_without_frames, planes=["frames"])))
    sample = next(iter(read_shards(tar_without_frames, planes=["motion"])))
    assert sample.motion is not None and sample.frames is None


def test_folders_patterns_and_a_lone_plane_are_refused_with_what_to_write(
    dataset_root, tars, truth, tmp_path, monkeypatch
):
    train = dataset_root / "train"
    for folder in (dataset_root, f"{train}/", f"file://{train}"):
        with pytest.raises(ValueError, match=r"a folder; name its tars, with braces .*\.tar"):
            read_shards([tars[0], folder])
    for pattern in (
        *(f"{train}/*.tar", f"{train}/00000?.tar", f"{train}/00000[01].tar", f"{train}/*"),
        *("s3://bucket/train/*.tar", "https://host/train/*.tar"),
    ):
        with pytest.raises(ValueError, match=r"a pattern; name the tars, with braces .*\{0000"):
            read_shards(pattern)
    with pytest.raises(ValueError, match=r"such as \('motion',\); got the text 'motion'"):
        read_shards(tars, planes="motion")
    # Names that only look like them.
    odd = tmp_path / "what?[1]*.tar"
    odd.write_bytes(tars[0].read_bytes())
    assert keys(odd) == keys(tars[0])
    for name in (f"pipe:cat {train}/00000?.tar", "https://host/000000.tar?sign=[1]", "-"):
        read_shards(name)


def test_braces_single_paths_and_commands(dataset_root, tars, truth):
    assert keys(f"{dataset_root}/train/{{000000..000001}}.tar") == list(truth)
    assert keys(tars[0]) + keys(str(tars[1])) == list(truth)
    assert keys([f"pipe:cat {path}" for path in tars]) == list(truth)
    assert keys(f"pipe:gzip -c {tars[0]} | gzip -dc") == keys(tars[0])


def test_over_http(web, truth):
    urls = [f"{web}/train/{name}.tar" for name in ("000000", "000001")]
    assert keys(urls) == list(truth)


def test_the_seed_orders_the_shards(tars):
    urls = [*tars, *tars, *tars]
    found = {tuple(keys(urls, seed=seed)) for seed in range(8)}
    assert len(found) > 1
    assert {tuple(sorted(order)) for order in found} == {tuple(sorted(keys(urls)))}
    assert keys(urls, seed=3) == keys(urls, seed=3)


def test_shards_of_one_sample_are_not_taken_for_one(tmp_path, tars):
    first = keys(tars[0])[0]
    path = rewrite(
        tars[0], tmp_path / "000000.tar", lambda n, c: [(n, c)] if n.startswith(first) else []
    )
    assert keys([path, path]) == [first, first]


def test_further_stages_of_webdataset_follow(tars, truth):
    pipeline = read_shards(tars).compose(webdataset.shuffle(4, initial=4))
    assert sorted(sample.key for sample in pipeline) == sorted(truth)


def test_ranks_divide_the_shards(tars, truth):
    found = []
    for rank in (0, 1):
        done = subprocess.run(
            [sys.executable, "-c", READ_AS_RANK, *map(str, tars)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
        )
        found.append(done.stdout.split())
    assert found[0] + found[1] == list(truth)
    assert all(found)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_divide_the_shards(tars, truth, workers):
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(read_shards(tars), batch_size=None, num_workers=workers)
    samples = list(loader)  # a third worker has no shard, and does not mind
    assert sorted(sample.key for sample in samples) == sorted(truth)
    assert all(
        sample.motion.shape == tuple(sample.json["planes"]["motion"]["shape"]) for sample in samples
    )


def test_errors_come_through_the_workers(tmp_path, tars):
    data = pytest.importorskip("torch.utils.data")
    path = damaged(tmp_path, tars[0].read_bytes()[: offsets(tars[0])[5][0]])
    loader = data.DataLoader(read_shards([path, tars[1]]), batch_size=None, num_workers=1)
    with pytest.raises(DamageError, match=r"000000\.tar is cut"):
        list(loader)


# Damage. Plain webdataset is silent about all of the first five.


def test_plain_webdataset_would_say_nothing(tmp_path, tars):
    content = tars[0].read_bytes()
    path = damaged(tmp_path, content[: offsets(tars[0])[5][0]])
    plain = list(webdataset.WebDataset([str(path)], shardshuffle=False))
    assert 0 < len(plain) < len(keys(tars[0])) + 1


@pytest.mark.parametrize("member", range(1, 10))
def test_a_shard_cut_between_members(tmp_path, tars, member):
    path = damaged(tmp_path, tars[0].read_bytes()[: offsets(tars[0])[member][0]])
    with pytest.raises(DamageError, match=r"000000\.tar.* (is cut|is missing|there is no json)"):
        keys(path)


def test_a_sample_before_the_cut_is_whole_and_none_comes_after_it(tmp_path, tars):
    # Cut where a sample ends: what comes out is right, then comes the error.
    path = damaged(tmp_path, tars[0].read_bytes()[: offsets(tars[0])[5][0]])
    samples = iter(read_shards(path))
    with pytest.raises(DamageError, match="without the end of a tar"):
        while True:
            next(samples)


def test_the_end_blocks_alone_are_missing(tmp_path, tars):
    header, start, length = offsets(tars[0])[-1]
    end = start + -(-length // 512) * 512
    for kept in (end, end + 512):
        path = damaged(tmp_path, tars[0].read_bytes()[:kept])
        with pytest.raises(DamageError, match=f"ends at byte {kept}, without the end of a tar"):
            keys(path)
    assert keys(damaged(tmp_path, tars[0].read_bytes()[: end + 1024])) == keys(tars[0])


@pytest.mark.parametrize("member", range(10))
def test_a_damaged_header(tmp_path, tars, member):
    content = bytearray(tars[0].read_bytes())
    content[offsets(tars[0])[member][0] + 3] ^= 1
    with pytest.raises(DamageError, match=r"000000\.tar"):
        keys(damaged(tmp_path, content))


def test_a_header_of_zeros_does_not_end_the_shard(tmp_path, tars):
    content = bytearray(tars[0].read_bytes())
    header = offsets(tars[0])[5][0]
    content[header : header + 1024] = bytes(1024)
    with pytest.raises(DamageError, match=f"from byte {header} on, but data follows"):
        keys(damaged(tmp_path, content))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_shard_cut_inside_a_member(tmp_path, tars, share):
    _, start, length = max(offsets(tars[0]), key=lambda member: member[2])
    path = damaged(tmp_path, tars[0].read_bytes()[: start + int(length * share)])
    with pytest.raises(DamageError, match=r"000000\.tar is cut or damaged: unexpected end of data"):
        keys(path)


@pytest.mark.parametrize("suffix", ["frames.mjpeg", "motion.zst", "coverage.zst"])
def test_a_flipped_bit_in_a_plane(tmp_path, tars, suffix):
    content = bytearray(tars[0].read_bytes())
    with tarfile.open(tars[0]) as archive:
        info = next(info for info in archive if info.name.endswith(suffix))
    content[info.offset_data + info.size // 2] ^= 16
    key = info.name.partition(".")[0]
    path = damaged(tmp_path, content)
    with pytest.raises(DamageError, match=f"000000.tar, sample {key}: {suffix.partition('.')[0]}"):
        list(read_shards(path))
    assert key in keys(path)  # what is not asked for is not looked at


def rewrite(path, out, change):
    """Write a tar again, with members changed: change(name, content) gives [(name, content)]."""
    with tarfile.open(path) as archive, tarfile.open(out, "w") as written:
        for info in archive:
            for name, content in change(info.name, archive.extractfile(info).read()):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                written.addfile(member, io.BytesIO(content))
    return out


def changed_json(**values):
    def change(name, content):
        if name.endswith(".json"):
            content = json.dumps(json.loads(content) | values).encode()
        return [(name, content)]

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda n, c: [] if n.endswith(".cls") else [(n, c)], "cls is missing"),
        (lambda n, c: [] if n.endswith("motion.zst") else [(n, c)], "motion.zst is missing"),
        (lambda n, c: [] if n.endswith(".json") else [(n, c)], "there is no json"),
        (lambda n, c: [(n, c)] * (1 + n.endswith(".cls")), "cls: duplicate file name"),
        (lambda n, c: [(n, b"5" if n.endswith(".cls") else c)], "cls says 5, json says"),
        (lambda n, c: [(n, c[:-3] if n.endswith(".json") else c)], "does not describe it"),
        (lambda n, c: [(n, c + b"x" if "mjpeg" in n else c)], "are not those that its json"),
        (changed_json(format=2), "format version 2"),
        (changed_json(key="train-7"), "its json is that of train-7"),
        (changed_json(planes={"motion": 3}), "does not describe it"),
        (changed_json(frame_index_of_jpeg=[0]), "are not those that its json names"),
    ],
)
def test_a_sample_that_is_not_what_its_json_says(tmp_path, tars, change, reason):
    path = rewrite(tars[0], tmp_path / "000000.tar", change)
    with pytest.raises(ShardError, match=reason) as caught:
        list(read_shards(path))
    assert "duplicate" in reason or "000000.tar, sample train-" in str(caught.value)


def test_members_that_are_not_together(tmp_path, tars):
    late = []

    def change(name, content):
        if name.endswith(".cls"):
            late.append((name, content))
            return []
        return [(name, content)]

    rewrite(tars[0], tmp_path / "a.tar", change)
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        for name, content in late:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(DamageError, match="cls is missing"):
        keys(tmp_path / "a.tar")


def test_a_side_tar_is_refused_with_a_hint(dataset_root):
    with pytest.raises(DamageError, match="give the main tars"):
        keys(dataset_root / "train" / "000000.residual.tar")


def test_an_empty_file_is_no_shard(tmp_path):
    with pytest.raises(DamageError, match=r"000000\.tar is cut or damaged"):
        keys(damaged(tmp_path, b""))


def test_a_shard_without_samples_is_none(tmp_path):
    assert keys(damaged(tmp_path, bytes(10240))) == []


# Roads that fail.


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.tar"):
        keys(tmp_path / "none.tar")


def test_a_page_that_is_not_there(web):
    with pytest.raises(ShardError, match=rf"shard {web}/train/none\.tar was not found .*404"):
        keys(f"{web}/train/none.tar")


def test_a_server_that_hangs_up(web):
    with pytest.raises(ShardError, match=r"train/cut\.tar cannot be read: .*bytes remaining"):
        keys(f"{web}/train/cut.tar")


def test_a_server_that_is_not_there():
    with pytest.raises(ShardError, match=r"none/404\.tar cannot be read: .*[Cc]onnect"):
        keys("http://127.0.0.1:9/none/404.tar")


@pytest.mark.parametrize(
    "command",
    [
        "false",
        "cat {tar}; exit 3",
        "cat {tar}; exec 1>&-; sleep 0.2; exit 3",  # fails after all bytes have come
        "head -c 5000 {tar}; exit 4",
    ],
)
def test_a_command_that_fails(tars, command):
    with pytest.raises(ShardError, match=r"cannot be read: .*exit [134]"):
        keys("pipe:" + command.format(tar=tars[0]))


def test_a_command_that_is_cut_and_does_not_say_so(tars):
    with pytest.raises(DamageError, match="is cut or damaged"):
        keys(f"pipe:head -c 5000 {tars[0]}")


def test_leaving_early_ends_the_command(tmp_path, tars):
    mark = tmp_path / "pid"
    endless = f"echo $$ > {mark}; while true; do cat {tars[0]}; sleep 0.05; done"
    samples = iter(read_shards(f"pipe:{endless}", planes=[]))
    next(samples)
    samples.close()
    assert not Path(f"/proc/{mark.read_text().strip()}").exists()


def test_from_s3(s3, tars, truth, monkeypatch):
    if shutil.which("aws") is None:
        pytest.skip("AWS's command line is not installed")
    for path in tars:
        s3.put(f"set/train/{path.name}", path.read_bytes())
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.options().endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert keys(f"{s3.url}/set/train/{{000000..000001}}.tar") == list(truth)
    with pytest.raises(ShardError, match=r"train/none\.tar was not found .*404"):
        keys(f"{s3.url}/set/train/none.tar")


def test_an_address_without_its_command_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for scheme, command in (("s3", "aws"), ("http", "curl"), ("https", "curl")):
        with pytest.raises(ShardError, match=f"needs the command '{command}', .*pipe:COMMAND"):
            keys(f"{scheme}://bucket/train/000000.tar")

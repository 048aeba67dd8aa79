"""Files made to hurt: nothing of them runs, and they are refused by name."""

import collections
import io
import os
import pickle
import random
import struct
import zipfile

import pytest
import torch

from gopstream.models.weights import pickle_guard
from gopstream.models.weights.checkpoint_files import read_checkpoint

ZIP_AND_LEGACY = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Weapon:
    """Pickled as a call of a function with arguments."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Custom:
    pass


def save(saved, path, *, zipped=True):
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    return path


def rewrite_zip(path, *, edit):
    """Write the archive anew; `edit` gets a list of (name, content) and returns one."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in edit(entries):
            archive.writestr(zipfile.ZipInfo(name), content)


def with_pickle(path, content):
    """Put other opcodes into a file of torch.save."""
    save({"w": torch.ones(2)}, path)
    rewrite_zip(
        path,
        edit=lambda entries: [
            (name, content if name.endswith("data.pkl") else old) for name, old in entries
        ],
    )
    return path


@ZIP_AND_LEGACY
@pytest.mark.parametrize("place", ["weights", "facts", "whole"])
def test_pickle_that_would_run_a_command_is_refused_and_does_not_run(tmp_path, zipped, place):
    marker, path = tmp_path / "marker", tmp_path / "w.pth"
    weapon = Weapon(os.system, f"touch {marker}")
    saved = {
        "weights": {"model": {"w": torch.ones(2), "x": weapon}},
        "facts": {"model": {"w": torch.ones(2)}, "args": weapon},
        "whole": weapon,
    }[place]
    save(saved, path, zipped=zipped)
    with pytest.raises(ValueError, match=r"refused: its pickle asks for '(posix|nt)\.system'"):
        read_checkpoint(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the weapon is loaded: this is what must not happen
    assert marker.exists()


@ZIP_AND_LEGACY
def test_second_lock_holds_where_the_first_is_open(tmp_path, zipped, monkeypatch):
    """Should the walk over the opcodes ever miss a name, torch's interpreter still refuses it."""
    monkeypatch.setattr(pickle_guard, "_refuse_unknown", lambda path, names: None)
    marker, path = tmp_path / "marker", tmp_path / "w.pth"
    weapon = Weapon(os.system, f"touch {marker}")
    save({"model": {"w": torch.ones(2)}, "x": weapon}, path, zipped=zipped)
    with pytest.raises(ValueError, match="can be read: torch refuses its pickle$"):
        read_checkpoint(path)
    assert not marker.exists()


def test_plain_pickle_is_refused_and_does_not_run(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "w.bin"
    for protocol in range(6):
        path.write_bytes(pickle.dumps(Weapon(os.system, f"touch {marker}"), protocol))
        with pytest.raises(ValueError, match="not a checkpoint that can be read|is refused"):
            read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "asks for 'os.system'"),
        (b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.", "asks for 'builtins.eval'"),
        (b"\x80\x02ccopy_reg\n_reconstructor\n.", "asks for 'copyreg._reconstructor'"),
        (b"\x80\x02cos\x1b\nsystem\n.", r"asks for 'os\\x1b\.system'"),
        (b"\x80\x02(X\x04\x00\x00\x00trueios\nsystem\n.", "the opcode INST"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "pickle protocol 4"),
        (b"\x80\x02\x8c\x02os\x8c\x06system\x93.", "the opcode STACK_GLOBAL"),
        (b"\x80\x02\x82\x01.", "the opcode EXT1"),
        (b"cos\nsystem\n(S'true'\ntR.", "asks for 'os.system'"),
    ],
)
def test_every_way_to_name_a_function_is_refused(tmp_path, content, message):
    path = with_pickle(tmp_path / "w.pth", content)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


SCALAR = b"cnumpy.core.multiarray\nscalar\n"


@pytest.mark.parametrize(
    "content",
    [
        b"h\x05.",  # something that was never kept
        b"ccollections\nOrderedDict\n)RK\x01b.",  # a number for attributes
        b"c__builtin__\nset\n)R}X\x01\x00\x00\x00aK\x01sb.",  # attributes for what has none
        SCALAR + b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85Rc_codecs\nencode\n"
        b"X\x01\x00\x00\x00aX\x06\x00\x00\x00latin1\x86R\x86R.",  # one byte of eight
        SCALAR + b"cnumpy\ndtype\nX\x01\x00\x00\x00O\x85RK\x01\x86R.",  # an object
        SCALAR + b"K\x01K\x01\x86R.",  # a number in place of a kind
        b"cargparse\nNamespace\nK\x01\x85R.",  # a stand-in called with arguments
    ],
)
def test_nonsense_in_allowed_words_is_refused(tmp_path, content):
    """Each raises another exception in the interpreter of opcodes."""
    path = with_pickle(tmp_path / "w.pth", b"\x80\x02" + content)
    with pytest.raises(ValueError, match="is not a checkpoint that can be read"):
        read_checkpoint(path)


def test_all_refused_names_are_said(tmp_path):
    path = save(
        {"a": Weapon(os.getpid), "b": Weapon(eval, "1"), "c": torch.ones(1)}, tmp_path / "w.pt"
    )
    with pytest.raises(ValueError, match=r"'builtins\.eval', '(posix|nt)\.getpid'"):
        read_checkpoint(path)


def test_names_that_the_process_allowed_elsewhere_stay_refused(tmp_path):
    """Another library's allow-list is not ours."""
    path = save({"model": {"w": torch.ones(2)}, "x": Custom()}, tmp_path / "w.pth")
    with torch.serialization.safe_globals([Custom]):
        assert isinstance(torch.load(path, weights_only=True)["x"], Custom)
        with pytest.raises(ValueError, match=r"asks for '[\w.]*test_pickle_guard\.Custom'"):
            read_checkpoint(path)


def test_reading_leaves_the_process_list_as_it_was(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(save({"w": torch.ones(2)}, tmp_path / "w.pth"))
    with pytest.raises(ValueError, match="refused"):
        read_checkpoint(save({"w": Custom()}, tmp_path / "x.pth"))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, 2).to_sparse(),
        torch.empty(2, device="meta"),
        torch.ones(2, dtype=torch.complex64),
    ],
    ids=["sparse", "meta", "complex"],
)
def test_other_tensors_than_dense_numbers_are_refused(tmp_path, tensor):
    with pytest.raises(ValueError, match="is refused: its pickle asks for 'torch"):
        read_checkpoint(save({"w": tensor}, tmp_path / "w.pth"))


@ZIP_AND_LEGACY
def test_tensor_that_only_claims_to_be_large_is_refused(tmp_path, zipped):
    claim = torch.ones(1).expand(2**40)
    path = save({"w": claim}, tmp_path / "w.pth", zipped=zipped)
    assert path.stat().st_size < 5000
    with pytest.raises(ValueError, match=r"w claims shape \(1099511627776,\) without the values"):
        read_checkpoint(path)


@ZIP_AND_LEGACY
@pytest.mark.parametrize("claimed", [2**33, 2**62, 2**70, -(2**33)])
def test_tensor_beyond_its_storage_is_refused(tmp_path, zipped, claimed):
    """Shape and storage size are numbers in the pickle; 4 values are stored."""
    path = save({"w": torch.ones(4)}, tmp_path / "w.pth", zipped=zipped)
    number = claimed.to_bytes(9, "little", signed=True)
    in_tuple, in_shape = (b"K\x04t", b"K\x04\x85")  # of the storage; of the tensor

    def enlarge(content):
        assert in_tuple in content or in_shape in content
        for old in (in_tuple, in_shape):
            content = content.replace(old, b"\x8a\x09" + number + old[2:])
        return content

    if zipped:
        rewrite_zip(
            path,
            edit=lambda entries: [
                (name, enlarge(old) if name.endswith("data.pkl") else old) for name, old in entries
            ],
        )
    else:
        path.write_bytes(enlarge(path.read_bytes()))
    with pytest.raises(ValueError, match="can be read|without the values"):
        read_checkpoint(path)


def nested(*, levels):
    value = [0]
    for _ in range(levels):
        value = [value] * 10
    return value


def self_holding():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "fact",
    [nested(levels=15), self_holding(), list(range(200_000))],
    ids=["unfolds to 10^15", "holds itself", "long"],
)
def test_fact_of_any_size_is_left_out(tmp_path, fact):
    path = save({"model": {"w": torch.ones(2)}, "meta": fact, "epoch": 1}, tmp_path / "w.pth")
    facts = read_checkpoint(path).facts
    assert facts == {"meta": "<left out: too large or too deep>", "epoch": 1}


def test_compressed_archive_is_refused(tmp_path):
    """A deflated file of a megabyte can become a gigabyte."""
    path = save({"w": torch.zeros(1000)}, tmp_path / "w.pth")
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="it is compressed"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda entries: [*entries, (entries[0][0].upper(), b"")], "two entries of one name"),
        (
            lambda entries: [*entries, ("other/data.pkl", entries[0][1])],
            "2 entries called data.pkl",
        ),
        (lambda entries: [("X/DATA.PKL", b""), *entries], "2 entries called data.pkl"),
        (lambda entries: entries[1:], "0 entries called data.pkl"),
        (lambda entries: [*entries, ("w/constants.pkl", b"")], "a TorchScript program"),
    ],
)
def test_archive_with_other_entries_is_refused(tmp_path, edit, message):
    path = save({"w": torch.ones(2)}, tmp_path / "w.pth")
    rewrite_zip(path, edit=edit)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_archive_larger_inside_than_outside_is_refused(tmp_path):
    path = save({"w": torch.ones(64)}, tmp_path / "w.pth")
    content = bytearray(path.read_bytes())
    place = content.rfind(b"data/0", 0, content.rfind(b"PK\x05\x06"))
    header = content.rfind(b"PK\x01\x02", 0, place)
    struct.pack_into("<II", content, header + 20, 2**30, 2**30)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="its entries overlap"):
        read_checkpoint(path)


def test_old_tar_format_is_refused(tmp_path):
    import tarfile

    path = tmp_path / "w.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    with pytest.raises(ValueError, match="not a checkpoint that can be read"):
        read_checkpoint(path)


def test_default_mapping_calls_no_factory(tmp_path):
    """A defaultdict in a hostile file must not make values up with a function of its choice."""
    saved = {"model": {"w": torch.ones(2)}, "d": collections.defaultdict(os.getpid)}
    with pytest.raises(ValueError, match=r"(posix|nt)\.getpid"):
        read_checkpoint(save(saved, tmp_path / "w.pth"))


@ZIP_AND_LEGACY
def test_truncated_file_is_refused(tmp_path, zipped):
    path = save({"model": {"w": torch.ones(300)}, "n": 1}, tmp_path / "w.pth", zipped=zipped)
    content = path.read_bytes()
    for length in range(1, len(content) - 1, 37):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a checkpoint that can be read"):
            read_checkpoint(path)


@pytest.mark.parametrize("length", [1, 4, 8, 40, 100])
def test_broken_safetensors_is_refused(tmp_path, length):
    from safetensors.torch import save as encode

    path = tmp_path / "w.safetensors"
    path.write_bytes(encode({"w": torch.ones(300)})[:length])
    with pytest.raises(ValueError, match="not a safetensors file that can be read"):
        read_checkpoint(path)


def test_safetensors_header_of_absurd_length_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(ValueError, match="not a safetensors file that can be read"):
        read_checkpoint(path)


@ZIP_AND_LEGACY
@pytest.mark.filterwarnings("ignore")  # of torch, about what it finds in the noise
def test_noise_in_the_file_is_read_or_refused_never_run(tmp_path, zipped):
    """Any other exception, or a crash, would be a hole in what is caught."""
    path = save({"model": {"w": torch.ones(3)}, "n": 1}, tmp_path / "w.pth", zipped=zipped)
    clean, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for round_number in range(400):
        # The pickles are at the beginning; the archive's directory is at the end.
        end = len(clean) if round_number % 2 else min(400, len(clean))
        content = bytearray(clean)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(64, end)] = rng.randrange(256)
        path.write_bytes(content)
        try:
            read_checkpoint(path)
        except ValueError:
            refused += 1
    assert refused > 100

"""Files of weights: what is read, where it is found, and what the settings beside it become."""

import argparse
import collections
import pathlib
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gopstream.models.weights.checkpoint_files import read_checkpoint


def weights(*, prefix=""):
    generator = torch.Generator().manual_seed(0)
    return collections.OrderedDict(
        (prefix + key, torch.randn(shape, generator=generator))
        for key, shape in {"body.weight": (4, 3), "body.bias": (4,), "count": ()}.items()
    )


def assert_same(state, expected):
    assert list(state) == list(expected)
    for key, tensor in expected.items():
        assert torch.equal(state[key], tensor), key


@pytest.fixture
def yacs_node(monkeypatch):
    """A class of the name and form of yacs' node, and a way to take its module away."""

    class CfgNode(dict):
        def __init__(self, settings):
            super().__init__(settings)
            self.__dict__["__immutable__"] = True
            self.__dict__["__deprecated_keys__"] = set()

        def __getattr__(self, name):
            if name in self:
                return self[name]
            raise AttributeError(name)

        def __setattr__(self, name, value):
            raise AttributeError(f"{name} is immutable")

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    package, module = types.ModuleType("yacs"), types.ModuleType("yacs.config")
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", package)
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    return CfgNode


ZIP_AND_LEGACY = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@ZIP_AND_LEGACY
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pyth", ".ckpt"])
def test_bare_state_dict_is_read(tmp_path, suffix, zipped):
    path = tmp_path / f"w{suffix}"
    torch.save(weights(), path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint.state, weights())
    assert (checkpoint.found_under, checkpoint.facts) == ("", {})


@pytest.mark.parametrize("place", ["state_dict", "model", "model_state", "module"])
def test_state_is_found_under_its_entry(tmp_path, place):
    path = tmp_path / "w.pth"
    torch.save({"epoch": 7, place: weights(), "meta": {"classes": ("a", "b")}}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.found_under == place
    assert_same(checkpoint.state, weights())
    assert checkpoint.facts == {"epoch": 7, "meta": {"classes": ["a", "b"]}}


def test_entry_of_that_name_without_tensors_is_not_the_state(tmp_path):
    """Recipes are often called "model" too."""
    path = tmp_path / "w.pth"
    torch.save({"model": {"name": "swin"}, "module": weights()}, path)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.found_under, checkpoint.facts) == ("module", {"model": {"name": "swin"}})


def test_prefix_of_distributed_training_is_taken_off(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": weights(prefix="module.")}, path)
    assert_same(read_checkpoint(path).state, weights())


def test_prefix_of_some_keys_only_stays(tmp_path):
    path = tmp_path / "w.pth"
    state = {"module.weight": torch.ones(2), "weight": torch.zeros(2)}
    torch.save(state, path)
    assert_same(read_checkpoint(path).state, state)


def test_parameters_come_as_tensors_without_gradient(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(dict(torch.nn.Linear(3, 2).named_parameters()), path)
    for tensor in read_checkpoint(path).state.values():
        assert type(tensor) is torch.Tensor
        assert not tensor.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
@ZIP_AND_LEGACY
def test_dtypes_are_kept(tmp_path, dtype, zipped):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.arange(6).view(2, 3).to(dtype)}, path,
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    (tensor,) = read_checkpoint(path).state.values()
    assert tensor.dtype == dtype
    assert torch.equal(tensor, torch.arange(6).view(2, 3).to(dtype))


@ZIP_AND_LEGACY
def test_yacs_settings_are_read_without_yacs(tmp_path, yacs_node, zipped):
    """Video-FocalNet's and Swin's training code saves its settings beside the weights."""
    path = tmp_path / "w.pth"
    config = yacs_node({"MODEL": yacs_node({"NAME": "focal", "DEPTHS": [2, 2]}), "SEED": 0})
    torch.save({"model": weights(), "config": config, "max_accuracy": 80.5}, path,
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    del sys.modules["yacs.config"], sys.modules["yacs"]
    checkpoint = read_checkpoint(path)
    assert checkpoint.facts == {
        "config": {"MODEL": {"NAME": "focal", "DEPTHS": [2, 2]}, "SEED": 0},
        "max_accuracy": 80.5,
    }
    assert type(checkpoint.facts["config"]) is dict
    assert_same(checkpoint.state, weights())
    assert "yacs" not in sys.modules


@ZIP_AND_LEGACY
def test_argparse_namespace_becomes_a_mapping(tmp_path, zipped):
    path = tmp_path / "w.pth"
    arguments = argparse.Namespace(
        lr=0.1,
        output_dir=pathlib.Path("/runs/one"),
        sizes=(224, 224),
        inner=argparse.Namespace(a=1),
    )
    torch.save({"model": weights(), "args": arguments}, path,
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    expected = {"lr": 0.1, "output_dir": "/runs/one", "sizes": [224, 224], "inner": {"a": 1}}
    assert read_checkpoint(path).facts == {"args": expected}


@pytest.mark.parametrize(
    "number",
    [
        np.float64(-0.5),
        np.float32(0.25),
        np.float16(2),
        np.int64(-(2**40)),
        np.int8(-3),
        np.uint16(65535),
        np.bool_(True),
    ],
    ids=lambda number: number.dtype.str,
)
def test_numpy_numbers_become_pythons(tmp_path, number):
    path = tmp_path / "w.pth"
    torch.save({"model": weights(), "best": number}, path)
    best = read_checkpoint(path).facts["best"]
    assert best == number.item()
    assert type(best) in (bool, int, float)


def test_byte_order_of_another_machine_is_heeded(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": weights(), "best": np.int16(258)}, path,
               _use_new_zipfile_serialization=False)  # fmt: skip
    content = path.read_bytes()
    little, big = b"X\x01\x00\x00\x00<", b"X\x01\x00\x00\x00>"
    assert content.count(little) == 1
    path.write_bytes(content.replace(little, big))
    assert read_checkpoint(path).facts == {"best": 513}  # 0x0102 read as 0x0201


def test_old_name_of_numpys_scalar_is_known(tmp_path):
    """NumPy before 2.0 wrote its module without the underscore."""
    path, old = tmp_path / "w.pth", tmp_path / "old.pth"
    torch.save({"model": weights(), "best": np.float64(0.5)}, path,
               _use_new_zipfile_serialization=False)  # fmt: skip
    content = path.read_bytes()
    assert b"cnumpy._core.multiarray\nscalar" in content
    old.write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core."))
    assert read_checkpoint(old).facts == {"best": 0.5}


def test_other_collections_are_read(tmp_path):
    path = tmp_path / "w.pth"
    facts = {
        "default": collections.defaultdict(list, {"a": [1]}),
        "counter": collections.Counter("aab"),
        "ordered": collections.OrderedDict(b=1),
        "set": {3},
        "step": torch.tensor(5),
        "bytes": b"raw",
    }
    torch.save({"model": weights(), **facts}, path)
    assert read_checkpoint(path).facts == {
        "default": {"a": [1]},
        "counter": {"a": 2, "b": 1},
        "ordered": {"b": 1},
        "set": [3],
        "step": 5,
        "bytes": "<bytes>",
    }


def test_entries_with_tensors_are_no_facts(tmp_path):
    path, model = tmp_path / "w.pth", torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    torch.save({"model": model.state_dict(), "optimizer": optimiser.state_dict(), "n": 1}, path)
    assert read_checkpoint(path).facts == {"n": 1}


def test_attribute_that_hides_a_method_does_not_matter(tmp_path):
    state = weights()
    state.values = state.keys = "not a method"
    path = tmp_path / "w.pth"
    torch.save({"model": state}, path)
    assert_same(read_checkpoint(path).state, weights())


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="Linux tells maps")
def test_weights_of_an_archive_stay_on_disk_until_they_are_read(tmp_path):
    """A checkpoint with its optimiser is three times its weights: only what is used is read."""
    path = tmp_path / "w.pth"
    torch.save(weights(), path)
    checkpoint = read_checkpoint(path)
    assert str(path) in pathlib.Path("/proc/self/maps").read_text()
    assert_same(checkpoint.state, weights())


def test_safetensors_is_read_with_its_metadata(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(weights(prefix="module."), path, metadata={"format": "pt"})
    checkpoint = read_checkpoint(path)
    assert sorted(checkpoint.state) == sorted(weights())
    for key, tensor in weights().items():
        assert torch.equal(checkpoint.state[key], tensor)
    assert (checkpoint.found_under, checkpoint.facts) == ("", {"format": "pt"})


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"weights": {"a": torch.ones(1)}}, r"no state dict under state_dict, model.*'weights'"),
        ({"model": {"a": torch.ones(1), "b": 3}}, "b is a int, not a tensor"),
        ({"model": {1: torch.ones(1)}}, "the key 1, which is no plain text"),
        ({"model": {"a\x1b[1m": torch.ones(1)}}, r"key 'a\\x1b\[1m', which is no plain text"),
        ([torch.ones(1)], "holds a list, not a mapping"),
        (torch.ones(1), "holds a Tensor, not a mapping"),
        ({}, "no state dict"),
    ],
)
def test_file_without_plain_state_is_refused(tmp_path, saved, message):
    path = tmp_path / "w.pth"
    torch.save(saved, path)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_file_without_tensors_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({}, path)
    with pytest.raises(ValueError, match="has no tensors"):
        read_checkpoint(path)


def test_other_suffix_is_refused(tmp_path):
    path = tmp_path / "w.pkl"
    torch.save(weights(), path)
    with pytest.raises(ValueError, match=r"ends in '\.pkl'; weights are read from \.safetensors"):
        read_checkpoint(path)


def test_missing_file_is_the_usual_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pth")


def test_larger_file_than_allowed_is_not_opened(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(weights(), path)
    size = path.stat().st_size
    assert_same(read_checkpoint(path, max_bytes=size).state, weights())
    with pytest.raises(ValueError, match=f"has {size} bytes; max_bytes allows {size - 1}"):
        read_checkpoint(path, max_bytes=size - 1)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_compiled_and_wrapped_models_are_left_out(tmp_path, prefix):
    path = tmp_path / "wrapped.pth"
    torch.save({f"{prefix}head.weight": torch.ones(2), f"{prefix}module": torch.ones(1)}, path)
    assert read_checkpoint(path).state.keys() == {"head.weight", "module"}


def test_what_is_no_file_of_weights_is_named(tmp_path):
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ValueError, match=r"empty.pth is empty"):
        read_checkpoint(tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="is a folder; give a file"):
        read_checkpoint(tmp_path)

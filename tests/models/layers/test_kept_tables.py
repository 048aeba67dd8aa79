"""Tables are made once, within a bound of memory, and serve every later pass."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gopstream.models.layers.kept_tables import KeptTables


def make_table(number, *, num_values=10):
    """80 bytes, one tensor of them nested."""
    return (torch.full((num_values - 1,), number), (None, (torch.tensor([number]), "C")))


def test_a_table_is_made_once_and_the_oldest_go_first():
    kept = KeptTables(most_bytes=200)
    first = kept.get(1, make=lambda: make_table(1))
    assert kept.get(1, make=lambda: make_table(7)) is first
    assert kept.num_bytes == 80
    second = kept.get(2, make=lambda: make_table(2))
    assert kept.num_bytes == 160
    kept.get(3, make=lambda: make_table(3))
    assert kept.num_bytes == 160
    assert kept.get(2, make=lambda: make_table(7)) is second
    assert kept.get(1, make=lambda: make_table(7)) is not first


def test_a_table_beyond_the_bound_is_not_kept_and_puts_none_out():
    kept = KeptTables(most_bytes=200)
    small = kept.get(1, make=lambda: make_table(1))
    large = kept.get(2, make=lambda: make_table(2, num_values=30))
    assert large[0][0] == 2
    assert kept.num_bytes == 80
    assert kept.get(1, make=lambda: make_table(7)) is small


def test_a_table_of_inference_mode_can_be_saved_for_a_backward_pass():
    kept = KeptTables(most_bytes=200)
    with torch.inference_mode():
        table = kept.get(1, make=lambda: torch.arange(3))
    values = torch.ones(3, requires_grad=True)
    values.index_select(0, table).sum().backward()
    assert values.grad.tolist() == [1, 1, 1]


def test_the_tensors_of_a_tracer_are_not_kept():
    kept = KeptTables(most_bytes=200)
    with FakeTensorMode():
        kept.get(1, make=lambda: make_table(1))
    assert kept.num_bytes == 0


def test_threads_that_put_each_other_out_get_their_own_tables():
    kept = KeptTables(most_bytes=200)

    def look_up(number):
        return int(kept.get(number % 5, make=lambda: make_table(number % 5))[0][0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(look_up, range(400))) == [number % 5 for number in range(400)]
    assert kept.num_bytes == 160

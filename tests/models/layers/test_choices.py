"""One message for every option of a few names."""

import pytest

from gopstream.models.layers.choices import require_choice


def test_a_choice_passes_and_anything_else_is_refused_with_the_choices():
    require_choice("colour", "red", choices=("red", "blue"))
    with pytest.raises(ValueError, match=r"^colour must be one of 'red', 'blue', got 'gold'$"):
        require_choice("colour", "gold", choices=("red", "blue"))

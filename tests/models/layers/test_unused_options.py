"""What was changed where it has no effect is refused; a default is not."""

import pytest

from gopstream.models.layers.unused_options import refuse_unused


class Network:
    def __init__(self, *, pattern="C", folds=8): ...


def test_only_what_differs_from_the_default_of_the_constructor_is_refused():
    refuse_unused(Network, given={"pattern": "C", "folds": 8}, reason="nothing shifts")
    message = "^folds has no effect, as nothing shifts; leave it out, got 4$"
    with pytest.raises(ValueError, match=message):
        refuse_unused(Network, given={"pattern": "C", "folds": 4}, reason="nothing shifts")

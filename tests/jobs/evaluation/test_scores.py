"""Scores by hand, and actions against the table of all pairs."""

import math

import numpy as np
import pytest
import torch

from gopstream.jobs.errors import UserError
from gopstream.jobs.evaluation.outcomes import (
    action_labels,
    action_numbers,
    averaged_logs,
    joined_outcomes,
    outcomes_of,
)
from gopstream.jobs.evaluation.scores import all_scores, confusion, scores_text, set_scores
from gopstream.jobs.labels import LabelSet


def outcomes(logits, labels, *sets, average="probabilities"):
    """Of (N, V, outputs) logits and (N, S) labels."""
    return outcomes_of(
        logits,
        labels,
        samples=torch.arange(len(labels)),
        keys=[f"key-{row}" for row in range(len(labels))],
        sets=sets,
        average=average,
    )


@pytest.fixture
def six():
    """Four samples; the network always takes a for likelier than b, and f for the least likely."""
    logits = torch.tensor([6.0, 5, 4, 3, 2, 1]).expand(4, 1, 6)
    labels = torch.tensor([[0], [0], [1], [5]])  # first, first, second, out of the top 5
    return outcomes(logits, labels, LabelSet("", tuple("abcdef")))


def test_scores_by_hand(six):
    result = all_scores(six, [LabelSet("", tuple("abcdef"))])
    assert result["top1"] == 2 / 4
    assert result["top5"] == 3 / 4
    assert result["per_class"] == {"a": 1.0, "b": 0.0, "f": 0.0}
    assert result["mean_class_accuracy"] == pytest.approx(1 / 3)
    assert result["samples"] == 4
    assert result["chance"] == pytest.approx(1 / 6)
    total = sum(math.exp(logit) for logit in range(1, 7))
    losses = [math.log(total) - logit for logit in (6, 6, 5, 1)]
    assert result["loss"] == pytest.approx(sum(losses) / 4, rel=1e-12)


def test_confusion_has_the_class_in_its_row_and_the_guess_in_its_column():
    logits = torch.eye(3)[[0, 1, 1, 2, 0]][:, None]
    labels = torch.tensor([[0], [0], [1], [2], [2]])
    found = outcomes(logits, labels, LabelSet("", ("a", "b", "c")))
    expected = [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert confusion(found, 0, num_classes=3).tolist() == expected
    assert set_scores(found, 0, ("a", "b", "c"))["confusion"] == expected


@pytest.mark.parametrize(("num_classes", "is_shown"), [(50, True), (51, False)])
def test_confusion_of_many_classes_is_left_to_its_file(num_classes, is_shown):
    names = tuple(map(str, range(num_classes)))
    found = outcomes(torch.zeros(1, 1, num_classes), torch.tensor([[0]]), LabelSet("", names))
    assert ("confusion" in set_scores(found, 0, names)) == is_shown


def test_equals_are_ranked_by_their_number():
    found = outcomes(torch.zeros(1, 1, 7), torch.tensor([[4]]), LabelSet("", tuple("abcdefg")))
    assert found.guesses.tolist() == [[[0, 1, 2, 3, 4]]]


def test_views_are_averaged_as_asked():
    views = torch.tensor([[[0.0, 1.0], [3.0, 0.0]]])
    p, q = math.exp(0) / (math.exp(0) + math.exp(1)), math.exp(3) / (math.exp(3) + 1)
    assert averaged_logs(views, "probabilities").exp()[0, 0] == pytest.approx((p + q) / 2)
    share = math.exp(1.5) / (math.exp(1.5) + math.exp(0.5))
    assert averaged_logs(views, "logits").exp()[0, 0] == pytest.approx(share)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_a_label_that_is_very_unlikely_has_a_loss_that_is_a_number(average):
    logits = torch.tensor([[[2000.0, 0.0]] * 3])
    found = outcomes(logits, torch.tensor([[1]]), LabelSet("", ("a", "b")), average=average)
    assert found.losses.item() == pytest.approx(2000.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_no_numbers_are_refused(value):
    logits = torch.zeros(2, 3, 4)
    logits[1, 2, 3] = value
    with pytest.raises(UserError, match="sample key-1 are no numbers"):
        outcomes(logits, torch.zeros(2, 1, dtype=torch.int64), LabelSet("", tuple("abcd")))


VERBS = LabelSet("verb", tuple(f"v{number}" for number in range(9)))
NOUNS = LabelSet("noun", tuple(f"n{number}" for number in range(13)))
TOOLS = LabelSet("tool", ("none", "knife", "pan"))


@pytest.mark.parametrize("sets", [(VERBS, NOUNS), (VERBS, NOUNS, TOOLS), (TOOLS, TOOLS)])
@pytest.mark.parametrize("kind", ["drawn", "equal"])
def test_best_actions_are_those_of_the_table_of_all(sets, kind):
    """With drawn logits, and with whole ones of which many are equal."""
    sizes = [len(labels.classes) for labels in sets]
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(20, 4, sum(sizes), generator=generator, dtype=torch.float64)
    if kind == "equal":
        logits = logits[:, :1].round()
    labels = torch.stack([torch.randint(size, (20,), generator=generator) for size in sizes], dim=1)
    found = outcomes(logits, labels, *sets)
    for row in range(20):
        table = np.ones(1)
        for part in logits[row].split(sizes, dim=1):
            shares = part.softmax(dim=1).mean(dim=0).numpy()
            table = np.multiply.outer(table, shares).ravel()
        shares = found.action_probabilities[row].numpy()
        best = np.sort(table)[::-1][:5]
        assert shares == pytest.approx(best, rel=1e-9)
        assert table[found.actions[row].numpy()] == pytest.approx(best, rel=1e-9)
        assert len(set(found.actions[row].tolist())) == 5
    right = (found.actions == action_numbers(labels, sizes)[:, None]).any(dim=1)
    assert all_scores(found, sets)["top5"] == pytest.approx(right.float().mean().item())


def test_fewer_actions_than_five_are_filled():
    sets = (LabelSet("a", ("x", "y")), LabelSet("b", ("z",)))
    found = outcomes(torch.tensor([[[2.0, 0.0, 5.0]]]), torch.tensor([[1, 0]]), *sets)
    assert found.actions.tolist() == [[0, 1, -1, -1, -1]]
    assert found.action_probabilities[0, 2:].tolist() == [0.0, 0.0, 0.0]
    assert all_scores(found, sets)["top1"] == 0.0
    assert all_scores(found, sets)["top5"] == 1.0


def test_an_action_is_right_where_all_label_sets_are():
    sets = (LabelSet("verb", ("cut", "wash")), LabelSet("noun", ("pan", "leek", "hob")))
    # Always wash and leek; the labels: both, the verb alone, the noun alone.
    logits = torch.tensor([0.0, 9.0, 0.0, 9.0, 0.0]).expand(3, 1, 5)
    found = outcomes(logits, torch.tensor([[1, 1], [1, 2], [0, 1]]), *sets)
    result = all_scores(found, sets)
    assert result["top1"] == pytest.approx(1 / 3)
    assert result["sets"]["verb"]["top1"] == pytest.approx(2 / 3)
    assert result["sets"]["noun"]["top1"] == pytest.approx(2 / 3)
    assert result["chance"] == pytest.approx(1 / 6)
    assert "per_class" not in result
    text = scores_text(result)
    assert text.startswith("action top-1 33.33%, top-5 ")
    assert "; verb top-1 66.67%" in text
    assert "on 3 samples" in text


def test_numbers_of_actions_are_undone():
    sizes = (3, 4, 5)
    for number in range(60):
        labels = torch.tensor(action_labels(number, sizes))
        assert action_numbers(labels, sizes).item() == number


def test_parts_are_put_together_in_order(six):
    both = joined_outcomes([six, six])
    assert both.keys == six.keys * 2
    assert torch.equal(both.losses, torch.cat([six.losses] * 2))
    assert joined_outcomes([]) is None

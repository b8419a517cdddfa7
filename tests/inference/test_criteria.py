"""Scores worked out by hand, and what holds of every criterion."""

import math

import pytest
import torch
from torch.nn import functional as F

from dfs_edu import inference
from dfs_edu.inference import Judge, Outputs


def test_scores_of_one_image_by_hand():
    logits = torch.tensor([[0.7, 0.2, 0.1]]).log()
    score = {name: Judge(1, name)(logits)[0].item() for name in inference.CRITERIA}
    assert score["confidence"] == pytest.approx(0.7)
    assert score["margin"] == pytest.approx(0.5)
    entropy = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    assert score["entropy"] == pytest.approx(1 - entropy / math.log(3))
    assert score["patience"] == 0


def test_patience_counts_exits_that_agree_with_the_one_before():
    said = torch.tensor([[0, 1], [0, 0], [0, 0], [2, 0], [2, 0]])  # of five exits, for two images
    judge = Judge(5, "patience")
    scores = torch.stack([judge(5.0 * F.one_hot(k, 3))[0] for k in said])
    assert (4 * scores).T.tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]
    judge.restart()
    assert judge(5.0 * F.one_hot(said[0], 3))[0].tolist() == [0, 0]


@pytest.mark.parametrize("name", inference.CRITERIA)
def test_scores_are_from_0_to_1_and_no_two_batches_meet(name):
    logits = 3 * torch.randn(4, 50, 7, generator=torch.Generator().manual_seed(0))
    whole = Outputs.of(logits, torch.zeros(50).long(), "validation", name)
    assert whole.confidence.min() >= 0
    assert whole.confidence.max() <= 1
    parts = [
        Outputs.of(logits[:, p], torch.zeros(len(p)).long(), "validation", name) for p in torch.arange(50).split(9)
    ]
    torch.testing.assert_close(Outputs.joined(parts).confidence, whole.confidence)


def test_sure_and_unsure():
    logits = torch.tensor([[1000.0, 0, 0], [0.0, 0, 0]])
    for name, unsure in (("confidence", 1 / 3), ("margin", 0), ("entropy", 0)):
        assert Judge(1, name)(logits)[0].tolist() == pytest.approx([1, unsure], abs=1e-6)

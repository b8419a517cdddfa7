"""Class selectivity by hand."""

import pytest
import torch

from dfs_edu.probes import class_selectivity


def test_selectivity_by_hand():
    """Class means of channel 0: 3, 1, 0, of the others of its highest (1 + 0) / 2; channel 1 silent but for class 2."""
    activations = torch.tensor([[2.0, 0, 5, 0], [4, 0, 5, 0], [1, 0, 5, 0], [0, 7, 5, 0]])
    labels = torch.tensor([0, 0, 1, 2])
    found = class_selectivity(activations, labels)
    assert found[:3].tolist() == pytest.approx([2.5 / 3.5, 1, 0])
    assert found[3].isnan()  # always silent
    assert class_selectivity(10 * activations, labels + 5)[0] == pytest.approx(2.5 / 3.5)


@pytest.mark.parametrize(
    ("activations", "labels", "message"),
    [
        (torch.tensor([[1.0], [-0.5]]), torch.tensor([0, 1]), "activations down to -0.5"),
        (torch.tensor([[1.0], [float("nan")]]), torch.tensor([0, 1]), "activations down to nan"),
        (torch.ones(2, 1), torch.tensor([1, 1]), r"class \[1\] alone"),
        (torch.ones(2, 1), torch.tensor([1]), r"shapes \(2, 1\), \(1,\)"),
    ],
)
def test_bad_activations_are_named(activations, labels, message):
    with pytest.raises(ValueError, match=message):
        class_selectivity(activations, labels)

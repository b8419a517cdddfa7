"""The closed forms for two gradients against torchjd."""

from __future__ import annotations

import pytest
import torch
from torchjd._linalg import QuadprogProjector
from torchjd.aggregation import UPGradWeighting

from dfs_edu import methods
from dfs_edu.methods.pair import PAIRED, weights_of_two


def gramian(seed: int) -> torch.Tensor:
    """Of two random gradients of different lengths; the odd ones conflict."""
    generator = torch.Generator().manual_seed(seed)
    J = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    J[1] *= 10 ** (seed % 3 - 1)
    if (J[0] @ J[1] < 0) != bool(seed % 2):
        J[1] = -J[1]
    return J @ J.T


@pytest.mark.parametrize("length", methods.LENGTHS)
@pytest.mark.parametrize("seed", range(20))
def test_random_gradients_against_the_methods(seed, length):
    """PCGrad to the last digit; UPGrad as far as torchjd's regularization allows."""
    G = gramian(seed)
    found = weights_of_two(G, length)
    assert tuple(found) == PAIRED
    for name in ("sum", "pcgrad"):
        expected = [1, 1] if name == "sum" else methods.make(name, 2, length=length).weights(G)
        torch.testing.assert_close(found[name], torch.as_tensor(expected).double(), rtol=1e-12, atol=0)
    steps = [w @ G @ w for w in (found["upgrad"], methods.make("upgrad", 2, length=length).weights(G))]
    assert steps[0] == pytest.approx(steps[1].item(), rel=0.05)  # squared lengths of the steps


@pytest.mark.parametrize("seed", range(20))
def test_upgrad_against_torchjd_without_its_regularization(seed):
    G = gramian(seed)
    projector = QuadprogProjector(norm_eps=0.0, reg_eps=0.0)
    expected = UPGradWeighting(projector=projector)(G)
    torch.testing.assert_close(weights_of_two(G, "own")["upgrad"], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_upgrad_is_half_of_pcgrad_and_opposes_neither(seed):
    G = gramian(seed)
    own, same = weights_of_two(G, "own"), weights_of_two(G, "sum")
    torch.testing.assert_close(2 * own["upgrad"], own["pcgrad"])
    torch.testing.assert_close(same["upgrad"], same["pcgrad"])
    assert (G @ own["pcgrad"] > -1e-9 * G.abs().max()).all()
    for w in same.values():
        assert (w @ G @ w).item() == pytest.approx(G.sum().item())


@pytest.mark.parametrize("length", methods.LENGTHS)
@pytest.mark.parametrize("G", [[[0.0, 0.0], [0.0, 4.0]], [[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 9.0]]])
def test_a_gradient_that_is_zero_and_a_right_angle(G, length):
    G = torch.tensor(G).double()
    for name in ("pcgrad", "upgrad"):
        expected = methods.make(name, 2, length=length).weights(G)
        torch.testing.assert_close(weights_of_two(G, length)[name], expected, rtol=1e-6, atol=1e-9)


def test_opposed_gradients_of_the_same_length_leave_no_step():
    G = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert weights_of_two(G, "own")["pcgrad"].tolist() == [2, 2]
    assert weights_of_two(G, "sum")["pcgrad"].tolist() == [2, 2]


def test_what_is_not_a_gramian_of_two():
    with pytest.raises(ValueError, match="gramian="):
        weights_of_two(torch.eye(3))
    with pytest.raises(ValueError, match="gramian="):
        weights_of_two(torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="length='half'"):
        weights_of_two(torch.eye(2), "half")

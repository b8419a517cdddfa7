"""CKA against its definition, closed forms and cases computed by hand."""

import numpy as np
import pytest
import torch

from dfs_edu.probes import cka, cka_matrix


def gaussian(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(D, seed=0):
    return torch.linalg.qr(gaussian(D, D, seed=seed)).Q


def hsic_by_definition(X, Y):
    """Song et al., JMLR 2012, equation 5, term by term."""
    N = len(X)
    K, L = X @ X.T, Y @ Y.T
    K, L = K - K.diag().diag(), L - L.diag().diag()
    one = torch.ones(N, dtype=X.dtype)
    terms = (
        (K @ L).trace() + (one @ K @ one) * (one @ L @ one) / ((N - 1) * (N - 2)) - 2 / (N - 2) * (one @ K @ L @ one)
    )
    return terms / (N * (N - 3))


@pytest.mark.parametrize(("N", "D1", "D2"), [(4, 2, 3), (12, 5, 2), (9, 30, 40), (200, 3, 50)])  # both forms
def test_unbiased_cka_is_its_definition(N, D1, D2):
    X = gaussian(N, D1) + 3
    Y = X[:, :1] + gaussian(N, D2, seed=1)
    lengths = (hsic_by_definition(X, X) * hsic_by_definition(Y, Y)).sqrt()
    assert cka(X, Y) == pytest.approx((hsic_by_definition(X, Y) / lengths).item(), abs=1e-9)


@pytest.mark.parametrize(("N", "D1", "D2"), [(12, 5, 2), (9, 30, 40)])
def test_biased_cka_is_its_definition(N, D1, D2):
    X, Y = gaussian(N, D1) + 3, gaussian(N, D2, seed=1)
    H = torch.eye(N, dtype=X.dtype) - 1 / N
    K, L = H @ X @ X.T @ H, H @ Y @ Y.T @ H
    expected = (K * L).sum() / (K.norm() * L.norm())
    assert cka(X, Y, unbiased=False) == pytest.approx(expected.item(), abs=1e-9)


def test_cka_by_hand():
    """Centred (-1, 0, 1) and (1, -2, 1) are at right angles; with (-2, 1, 1) the inner product is 3, of 2 and 6."""
    X, Y = torch.tensor([[4.0], [5], [6]]), torch.tensor([[1.0, 2], [-2, 2], [1, 2]])
    assert cka(X, Y, unbiased=False) == pytest.approx(0, abs=1e-12)
    assert cka(X, torch.tensor([[-2.0], [1], [1]]), unbiased=False) == pytest.approx(9 / 12)


def test_cka_of_single_channels_is_their_squared_correlation():
    x, y = gaussian(50, 1), gaussian(50, 1, seed=1)
    r = np.corrcoef(x[:, 0], y[:, 0])[0, 1]
    assert cka(x, y, unbiased=False) == pytest.approx(r**2)


@pytest.mark.parametrize("unbiased", [True, False])
def test_what_cka_does_not_see_and_what_it_does(unbiased):
    X = gaussian(100, 6) * torch.arange(1, 7)
    assert cka(X, X, unbiased) == pytest.approx(1)
    assert cka(X, 1e-8 * X @ rotation(6) + 5, unbiased) == pytest.approx(1)
    Y = X @ gaussian(6, 4, seed=2)
    assert cka(X @ rotation(6), Y, unbiased) == pytest.approx(cka(X, Y, unbiased))
    assert cka(X, Y, unbiased) == pytest.approx(cka(Y, X, unbiased))
    stretched = gaussian(100, 6) * torch.tensor([1, 1, 1, 1, 1, 100])  # linear, and can be undone, but no rotation
    assert cka(gaussian(100, 6), stretched, unbiased) < 0.6


def test_unrelated_features_are_unlike_only_to_the_unbiased_one():
    N, D1, D2 = 200, 150, 300
    X, Y = gaussian(N, D1), gaussian(N, D2, seed=1)
    assert abs(cka(X, Y)) < 0.02
    expected = (D1 * D2 / ((N + D1) * (N + D2))) ** 0.5
    assert cka(X, Y, unbiased=False) == pytest.approx(expected, abs=0.02)
    assert expected > 0.5


def test_a_matrix_of_cka():
    X, Y, Z = gaussian(30, 3), gaussian(30, 4, seed=1), gaussian(30, 2, seed=2)
    matrix = cka_matrix([X, Y, Z])
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(matrix.diagonal(), 1)
    assert matrix[0, 2] == pytest.approx(cka(X, Z))
    np.testing.assert_allclose(cka_matrix([X, Y], [Z]), matrix[:2, 2:])


def test_a_constant_feature_is_similar_to_nothing():
    X = gaussian(10, 3)
    for unbiased in (True, False):
        assert np.isnan(cka(X, torch.full((10, 2), 0.1), unbiased))
        assert np.isnan(cka(X[:, :0], X, unbiased))  # a part of no channels


@pytest.mark.parametrize(
    ("X", "Y", "unbiased", "message"),
    [
        (gaussian(5, 2), gaussian(6, 2), True, r"shapes \[\(5, 2\), \(6, 2\)\]"),
        (gaussian(5), gaussian(5, 2), True, r"shapes \[\(5,\)"),
        (gaussian(3, 2), gaussian(3, 2), True, "3 images: .* at least 4"),
        (gaussian(1, 2), gaussian(1, 2), False, "1 images: .* at least 2"),
        (gaussian(5, 2), gaussian(5, 2) / 0, True, "infinite"),
    ],
)
def test_bad_features_are_named(X, Y, unbiased, message):
    with pytest.raises(ValueError, match=message):
        cka(X, Y, unbiased)

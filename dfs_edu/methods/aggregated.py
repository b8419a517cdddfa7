"""Methods that choose the weights of the exits' gradients from the Gramian of these gradients, with torchjd.

Let g_k be the gradient of exit k's loss with respect to the whole trunk, zero where the exit does not reach, and G the
Gramian, G_ij = g_i . g_j. Each method gives the trunk the gradient sum_k w_k(G) g_k. ::

    pcgrad       each g_k loses its component along every g_j that it opposes; the sum (Yu et al., NeurIPS 2020)
    cagrad       near the mean, what gains most for the exit that gains least, c = 0.5 (Liu et al., NeurIPS 2021)
    mgda         the shortest convex combination (Desideri, 2012; Sener and Koltun, NeurIPS 2018)
    imtl-g       the one with equal projections on all g_k (Liu et al., ICLR 2021)
    nash-mtl     the Nash bargaining solution (Navon et al., ICML 2022)
    upgrad       each g_k projected onto what harms no exit; the mean (Quinton and Rey, 2024)
    aligned-mtl  the components of the g_k made orthogonal and equally long (Senushkin et al., CVPR 2023)

The K gradients take K backward passes, each as deep as its exit, and are in memory at the same time. Exits that do not
reach the trunk (``Detached``) are left out. torchjd's own ``mtl_backward`` is not used: on nested trunks it counts a
stage once for each exit after it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dfs_edu import distributed
from dfs_edu.extras import need
from dfs_edu.methods.method import Method, named
from dfs_edu.precision import widest


class Stateful:
    """A weighting that remembers something from step to step, and can say what."""

    def __call__(self, gramian: Tensor) -> Tensor:
        """Return the weights (n,) for a Gramian (n, n)."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the next step depends on."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from what ``state_dict`` returned."""
        raise NotImplementedError


def torchjds(name: str, **options: Any) -> Any:
    """Return an object of torchjd, an optional extra whose solvers are slow to load: imported only when needed."""
    return getattr(need("torchjd.aggregation"), name)(**options)


# name -> (number of exits) -> function of the Gramian (K, K) to the weights (K,)
WEIGHTINGS: dict[str, Callable[[int], Callable[[Tensor], Tensor]]] = {
    "pcgrad": lambda K: torchjds("PCGradWeighting"),
    "cagrad": lambda K: torchjds("CAGradWeighting", c=0.5),
    "mgda": lambda K: torchjds("MGDAWeighting"),
    "imtl-g": lambda K: torchjds("IMTLGWeighting"),
    "nash-mtl": lambda K: _Nash(K),
    "upgrad": lambda K: torchjds("UPGradWeighting"),
    "aligned-mtl": lambda K: torchjds("AlignedMTLWeighting"),
}


@named(*WEIGHTINGS)
class Aggregated(Method):
    """A method of ``WEIGHTINGS``, by name, with its step length; see ``methods.make``."""

    by_exit = True
    takes = ("step_length",)

    def __init__(self, name: str, length: str = "sum"):
        self.name, self.length = name, length
        self.weightings: dict[int, Callable[[Tensor], Tensor]] = {}  # by the number of exits that reach the trunk

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> Aggregated:
        return cls(name, length)

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """Run one backward pass per exit; the trunk gets the weighted sum of gradients, the others the plain sum.

        Raises:
            FloatingPointError: A gradient is not finite.
        """
        # One gradient per exit, averaged over processes
        rows = jacobian(losses, [*trunk, *others])
        distributed.average(g for row in rows for g in row if g is not None)
        shared, own = [row[: len(trunk)] for row in rows], [row[len(trunk) :] for row in rows]

        # From all of them, one for the trunk; the plain sum for the others
        G = gramian(shared)
        if not G.isfinite().all():  # the solvers would raise errors of their own
            raise FloatingPointError(f"a gradient is not finite; the losses are {[loss.item() for loss in losses]}")
        totals = [*self.combine(shared, G), *weighted_sum(own, [1.0] * len(own))]
        for p, total in zip([*trunk, *others], totals, strict=True):
            if total is not None:
                p.grad = total if p.grad is None else p.grad + total

    def combine(self, rows: Sequence[Sequence[Tensor | None]], gramian: Tensor) -> list[Tensor | None]:
        """Return the trunk's gradient, one tensor per parameter, given K rows of a Jacobian and their Gramian."""
        return weighted_sum(rows, distributed.broadcast(self.weights(gramian)).tolist())

    def weighting(self, exits: int) -> Callable[[Tensor], Tensor]:
        """Return a function of a Gramian (n, n) to the weights (n,) of its gradients, for a number of exits, n."""
        return WEIGHTINGS[self.name](exits)

    def weights(self, gramian: Tensor) -> Tensor:
        """Return the weights (K,) of the gradients in the sum, for their Gramian (K, K); both float64."""
        reaching = gramian.diagonal() > 0
        weights = torch.zeros(len(gramian), dtype=torch.float64)
        if reaching.any():
            weights[reaching] = self._weights(gramian[reaching][:, reaching])
        return weights

    def _weights(self, gramian: Tensor) -> Tensor:
        """The weights of exits that all reach the trunk."""
        n = len(gramian)
        if n == 1:
            return torch.ones(1, dtype=torch.float64)
        if n not in self.weightings:
            self.weightings[n] = self.weighting(n)
        try:
            weights = self.weightings[n](gramian).double()
        except (ValueError, ArithmeticError, RuntimeError) as error:  # every solver has its own
            raise FloatingPointError(
                f"{self.name} finds no weights for the Gramian {gramian.tolist()}: {error}"
            ) from error
        if self.length == "own":
            return weights

        # Rescale the step to the length that the plain sum would have
        length, target = (weights @ gramian @ weights).clamp(min=0).sqrt(), gramian.sum().clamp(min=0).sqrt()
        if weights @ gramian.sum(1) < 0:  # IMTL-G's weights add up to 1, but may point uphill for all exits: turn back
            weights = -weights
        return weights * (target / length) if length > 0 else weights

    def state_dict(self) -> dict:
        """Return what weightings remember, such as where Nash-MTL's solver starts from; most remember nothing."""
        stateful = {n: weighting for n, weighting in self.weightings.items() if isinstance(weighting, Stateful)}
        return {n: weighting.state_dict() for n, weighting in stateful.items()}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what ``state_dict`` returned."""
        if "weights" in state:  # a checkpoint from before there was one state for each number of exits
            state = {len(state["weights"]): state}
        for n, remembered in state.items():
            self.weightings[n] = weighting = self.weighting(n)
            cast(Stateful, weighting).load_state_dict(remembered)


def jacobian(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> list[list[Tensor | None]]:
    """Return the gradient of each loss with respect to each parameter; None where it does not reach."""
    last = len(losses) - 1
    return [
        list(torch.autograd.grad(loss, parameters, retain_graph=k < last, allow_unused=True))
        for k, loss in enumerate(losses)
    ]


def gramian(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """Return the scalar products of a Jacobian's rows: float64 (K, K), on the CPU, where the solvers run."""
    G = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for column in zip(*rows, strict=True):
        reached = torch.tensor([k for k, g in enumerate(column) if g is not None])
        if len(reached):
            matrix = widest(torch.stack([g.flatten() for g in column if g is not None]))
            G[reached[:, None], reached] += (matrix @ matrix.T).double().cpu()
    return G


def weighted_sum(rows: Sequence[Sequence[Tensor | None]], weights: Sequence[float]) -> list[Tensor | None]:
    """Return the weighted sum of a Jacobian's rows, one tensor per parameter; None where no row reaches."""
    sums: list[Tensor | None] = []
    for column in zip(*rows, strict=True):
        terms = [w * g for w, g in zip(weights, column, strict=True) if g is not None]
        sums.append(cast(Tensor, sum(terms)) if terms else None)
    return sums


class _Nash(Stateful):
    """torchjd's Nash-MTL asks for gradients, but uses only their scalar products: any root of the Gramian will do."""

    def __init__(self, exits: int):
        self.method = torchjds("NashMTL", n_tasks=exits)

    def __call__(self, gramian: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gramian)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are solving a parameterized problem that is not DPP")
            return self.method.weighting(vectors * values.clamp(min=0).sqrt())

    def state_dict(self) -> dict:
        """Return the weights of the last step: the next one starts from them."""
        return {"weights": torch.from_numpy(self.method.weighting.prvs_alpha).clone()}

    def load_state_dict(self, state: dict) -> None:
        self.method.weighting.prvs_alpha = state["weights"].numpy().copy()

"""Methods that choose the weights of the exits' gradients from the Gramian of these gradients, by torchjd.

With g_k the gradient of exit k's loss with respect to the whole trunk, zero where the exit does not reach, and the
Gramian G = (g_i . g_j), each of them gives the trunk the gradient sum_k w_k(G) g_k:

    pcgrad      each g_k loses its component along every g_j that it opposes; the sum (Yu et al., NeurIPS 2020)
    cagrad      near the mean, what gains most for the exit that gains least, c = 0.5 (Liu et al., NeurIPS 2021)
    mgda        the shortest convex combination (Desideri, 2012; Sener and Koltun, NeurIPS 2018)
    imtl-g      the one with equal projections on all g_k (Liu et al., ICLR 2021)
    nash-mtl    the Nash bargaining solution (Navon et al., ICML 2022)
    upgrad      each g_k projected on what harms no exit; the mean (Quinton and Rey, 2024)
    aligned-mtl the components of the g_k made orthogonal and equally long (Senushkin et al., CVPR 2023)

The K gradients are K backward passes, each as deep as its exit lies, and are held at the same time. An exit that does
not reach the trunk (`Detached`) has no say. torchjd's own `mtl_backward` is not used: on nested trunks it counts a
stage once for each exit behind it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

import torch
from torch import Tensor, nn

from dfs_edu import distributed
from dfs_edu.methods.method import Method, named
from dfs_edu.precision import widest


def _torchjd(name: str, **options):
    """Imported only when it is asked for: its solvers take a second to load."""
    return getattr(import_module("torchjd.aggregation"), name)(**options)


# name -> (number of exits) -> function of the Gramian (K, K) to the weights (K,)
WEIGHTINGS: dict[str, Callable[[int], Callable[[Tensor], Tensor]]] = {
    "pcgrad": lambda K: _torchjd("PCGradWeighting"),
    "cagrad": lambda K: _torchjd("CAGradWeighting", c=0.5),
    "mgda": lambda K: _torchjd("MGDAWeighting"),
    "imtl-g": lambda K: _torchjd("IMTLGWeighting"),
    "nash-mtl": lambda K: _Nash(K),
    "upgrad": lambda K: _torchjd("UPGradWeighting"),
    "aligned-mtl": lambda K: _torchjd("AlignedMTLWeighting"),
}


@named(*WEIGHTINGS)
class Aggregated(Method):
    """A method of `WEIGHTINGS` by its name, with steps of a length: see `methods.make`, which makes them."""

    by_exit = True
    takes = ("step_length",)

    def __init__(self, name: str, length: str = "sum"):
        self.name, self.length = name, length
        self.weightings: dict[int, Callable[[Tensor], Tensor]] = {}  # by the number of exits that reach the trunk

    @classmethod
    def of(cls, name: str, exits: int, weights: Sequence[float], length: str) -> Aggregated:
        return cls(name, length)

    def backward(self, losses: Sequence[Tensor], trunk: Sequence[nn.Parameter], others: Sequence[nn.Parameter]) -> None:
        """A backward pass for each exit; the trunk gets the weighted sum of gradients, the others the plain one.

        Raises FloatingPointError for a gradient that is not finite.
        """
        rows = jacobian(losses, [*trunk, *others])
        distributed.average(g for row in rows for g in row if g is not None)
        G = gramian([row[: len(trunk)] for row in rows])
        if not G.isfinite().all():  # the solvers would raise errors of their own
            raise FloatingPointError(f"a gradient is not finite; the losses are {[loss.item() for loss in losses]}")
        weights = distributed.as_the_first(self.weights(G)).tolist()
        for i, p in enumerate([*trunk, *others]):
            own = [1.0] * len(rows) if i >= len(trunk) else weights
            gradients = [w * row[i] for w, row in zip(own, rows, strict=True) if row[i] is not None]
            if gradients:
                p.grad = sum(gradients) if p.grad is None else p.grad + sum(gradients)

    def weights(self, gramian: Tensor) -> Tensor:
        """Of the gradients' sum: float64 (K, K) -> (K,)."""
        reaching = gramian.diagonal() > 0
        weights = torch.zeros(len(gramian), dtype=torch.float64)
        if reaching.any():
            weights[reaching] = self._weights(gramian[reaching][:, reaching])
        return weights

    def _weights(self, gramian: Tensor) -> Tensor:
        n = len(gramian)
        if n == 1:
            return torch.ones(1, dtype=torch.float64)
        if n not in self.weightings:
            self.weightings[n] = WEIGHTINGS[self.name](n)
        try:
            weights = self.weightings[n](gramian).double()
        except (ValueError, ArithmeticError, RuntimeError) as error:  # of a solver, each has its own
            raise FloatingPointError(
                f"{self.name} finds no weights for the Gramian {gramian.tolist()}: {error}"
            ) from error
        if self.length == "own":
            return weights
        length, wanted = (weights @ gramian @ weights).clamp(min=0).sqrt(), gramian.sum().clamp(min=0).sqrt()
        if weights @ gramian.sum(1) < 0:  # IMTL-G's weights of sum 1 may point uphill for all: the way down is back
            weights = -weights
        return weights * (wanted / length) if length > 0 else weights

    def state_dict(self) -> dict:
        """What Nash-MTL's solver starts its next step from; of the others nothing."""
        return {n: weighting.state_dict() for n, weighting in self.weightings.items() if isinstance(weighting, _Nash)}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` said."""
        if "weights" in state:  # of a checkpoint made before there was one for each number of exits
            state = {len(state["weights"]): state}
        for n, one in state.items():
            self.weightings[n] = WEIGHTINGS[self.name](n)
            self.weightings[n].load_state_dict(one)


def jacobian(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> list[list[Tensor | None]]:
    """The gradient of each loss with respect to each parameter; None where it does not reach."""
    last = len(losses) - 1
    return [
        list(torch.autograd.grad(loss, parameters, retain_graph=k < last, allow_unused=True))
        for k, loss in enumerate(losses)
    ]


def gramian(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """Scalar products of the rows of a Jacobian: float64 (K, K) on the CPU, where the small problems are solved."""
    G = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for column in zip(*rows, strict=True):
        reached = torch.tensor([k for k, g in enumerate(column) if g is not None])
        if len(reached):
            matrix = widest(torch.stack([g.flatten() for g in column if g is not None]))
            G[reached[:, None], reached] += (matrix @ matrix.T).double().cpu()
    return G


class _Nash:
    """torchjd's Nash-MTL asks for the gradients, but looks at their scalar products alone: any root of G will do."""

    def __init__(self, exits: int):
        self.method = _torchjd("NashMTL", n_tasks=exits)

    def __call__(self, gramian: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gramian)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are solving a parameterized problem that is not DPP")
            return self.method.weighting(vectors * values.clamp(min=0).sqrt())

    def state_dict(self) -> dict:
        """Each step starts from the weights of the last one."""
        return {"weights": torch.from_numpy(self.method.weighting.prvs_alpha).clone()}

    def load_state_dict(self, state: dict) -> None:
        self.method.weighting.prvs_alpha = state["weights"].numpy().copy()

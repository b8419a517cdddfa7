"""torchjd's scalarizations and shifting weights: by hand, against torchjd on whole networks, state, processes, runs."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
import torchjd.scalarization as library
from networks import gradients, parts, tiny
from torch import nn

import dfs_edu as dfs
from dfs_edu import distributed, methods
from dfs_edu.losses import separate_losses
from dfs_edu.methods import scalarized
from dfs_edu.methods.scalarized import NAMES, RATE, made
from dfs_edu.training import arms

LEFT_OUT = {  # class of torchjd -> why no method here uses it
    "Constant": "the weights of the sum",
    "COSMOS": "asks how much each exit is preferred",
    "Mean": "the sum",
    "PBI": "asks how much each exit is preferred",
    "Random": "its name is taken by the weights of gradients",
    "Sum": "the sum",
}
every_name = pytest.mark.parametrize("name", NAMES)
TWO = torch.tensor([1.0, 3.0]).double()


def test_none_of_torchjds_is_forgotten():
    named = {key for key in library.__all__ if key.lower() in NAMES}
    assert named | set(LEFT_OUT) | {"Scalarizer"} == set(library.__all__)
    assert len(named) == len(NAMES)


# Two losses, 1 and 3, by hand


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dwa", [1, 1]),  # before two epochs are over
        ("famo", [0.75, 0.25]),  # half of each at first: (1/2)/1 and (1/2)/3, which are to add up to 1
        ("geometricmean", [math.sqrt(3) / 2, math.sqrt(3) / 6]),  # of sqrt(3): that over twice the loss
        ("imtll", [1, 1]),  # e^0
        ("stch", [1 / (2 + 2 * math.exp(10)), 1 / (2 + 2 * math.exp(-10))]),  # softmax of (5, 15), halved
        ("uw", [0.5, 0.5]),
    ],
)
def test_the_first_weights_by_hand(name, expected):
    own = methods.make(name, 2, length="own").weights(TWO)
    torch.testing.assert_close(own, torch.tensor(expected).double(), rtol=1e-6, atol=0)
    scaled = methods.make(name, 2).weights(TWO)
    torch.testing.assert_close(scaled, 2 * own / own.sum())


def test_dwa_favours_what_fell_less():
    """Losses 4, 4 in the first epoch, 1, 4 in the second: rates 1/4 and 1, at temperature 2."""
    method = methods.make("dwa", 2)
    for epoch, losses in enumerate(([4.0, 4.0], [1.0, 4.0])):
        method.begin_epoch(epoch, 3)
        method.weights(torch.tensor(losses).double())
    method.begin_epoch(2, 3)
    method.begin_epoch(2, 3)  # resumed within the epoch: nothing ends
    expected = 2 * torch.tensor([1 / 8, 1 / 2]).double().softmax(0)
    torch.testing.assert_close(method.weights(TWO), expected)


@pytest.mark.parametrize(("name", "optimum"), [("uw", 1 / TWO), ("imtll", 1 / TWO)])
def test_what_is_learnt_balances_the_losses(name, optimum):
    """UW ends at variances equal to the losses, IMTL-L at scales that make all losses 1: weights as 1 to 1/3."""
    method = methods.make(name, 2)
    for _ in range(2000):
        weights = method.weights(TWO)
    torch.testing.assert_close(weights, 2 * optimum / optimum.sum(), rtol=1e-3, atol=0)


def test_famo_gives_weight_to_what_fell_less():
    class Slow:
        """A training in which the first loss halves at every step and the second stays."""

        def gradients(self, x, y):
            self.method.weights(TWO)

        def update(self):
            pass

        def losses(self, x, y):
            return [torch.tensor(0.5), torch.tensor(3.0)]

    training, method = Slow(), methods.make("famo", 2)
    training.method = method
    before = method.weights(TWO)
    for _ in range(10):
        method.step(training, None, None)
    after = method.weights(TWO)
    assert after[1] > before[1]


def test_shifting_by_hand():
    method, seen = methods.make("shifting", 3), []
    for epoch in range(3):
        method.begin_epoch(epoch, 3)
        seen.append(method.weights.tolist())
    assert seen == [[1, 1, 1], [0.75, 1, 1.25], [0.5, 1, 1.5]]
    for K, epochs in ((1, 4), (4, 1)):
        method = methods.make("shifting", K)
        method.begin_epoch(epochs - 1, epochs)
        assert method.weights.tolist() == [1] * K


# On networks


@every_name
def test_the_gradient_is_that_of_torchjds_scalar(name):
    net, images, labels = tiny()
    method = methods.make(name, 6, length="own")
    method.backward(separate_losses(net(images), labels), *parts(net))
    found = gradients(net)
    net.zero_grad()
    made(name, 6).double()(torch.stack(separate_losses(net(images), labels))).backward()
    for ours, p in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad)


@pytest.mark.parametrize("name", ["uw", "imtll"])
def test_what_is_learnt_is_learnt_as_torchjd_says(name):
    """Several steps: parameters in an Adam of their own, by the gradient of torchjd's scalar."""
    method, other = methods.make(name, 2), made(name, 2).double()
    optimizer = torch.optim.Adam(other.parameters(), RATE)
    for _ in range(3):
        method.weights(TWO)
        optimizer.zero_grad()
        other(TWO).backward()
        optimizer.step()
    torch.testing.assert_close(list(method.scalarizer.parameters()), list(other.parameters()))
    assert all(p.abs().max() > 0 for p in other.parameters())  # the loss of 1 is where both want it


def test_famos_steps_are_torchjds():
    """Steps on a network as torchjd's own example has them, with the losses before and after the update."""
    found = []
    for ours in (True, False):
        net, images, labels = tiny()
        net.eval()
        optimizer, method = torch.optim.SGD(net.parameters(), 0.01), methods.make("famo", 6, length="own")
        other = made("famo", 6).double()

        class Plain:
            def gradients(self, x, y):
                self.method.backward(self.losses(x, y), *parts(self.net))

            def update(self):
                self.optimizer.step()
                self.optimizer.zero_grad()

            def losses(self, x, y):
                return separate_losses(self.net(x), y)

        training = Plain()
        training.net, training.optimizer, training.method = net, optimizer, method
        for _ in range(3):
            if ours:
                method.step(training, images, labels)
                continue
            other(torch.stack(training.losses(images, labels))).backward()
            training.update()
            other.update(torch.stack(training.losses(images, labels)).detach())
        found.append([(method.scalarizer if ours else other)._w, *net.parameters()])
    torch.testing.assert_close(*found)
    assert found[0][0].abs().max() > 0


def test_the_losses_after_a_step_move_nothing_else():
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", method="famo", train_images=128, precision="fp32")
    run = dfs.train(recipe, out=None, device="cpu", progress=False)
    norms = [m for m in run.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.num_batches_tracked.item() for m in norms} == {128 // recipe.batch_size}


def stepped(method, steps):
    """A few epochs of two steps each, in which some losses fall faster; the weights at every step."""
    found = []
    for i in steps:
        method.begin_epoch(i // 2, 4)
        losses = torch.tensor([2.0, 1.5, 1.0]).double() * torch.tensor([2.0, 3.0, 4.0]).double() ** (-i / 5)
        found.append(method.weights(losses))
        if hasattr(method.scalarizer, "update"):
            method.scalarizer.update(losses / torch.tensor([1.1, 1.2, 1.05]).double())
    return found


@every_name
@pytest.mark.parametrize("at", [0, 1, 3, 4, 5])
def test_a_state_goes_on_bit_for_bit(name, at):
    """Through a checkpoint's format, between epochs and within them."""
    whole, killed = (methods.make(name, 3) for _ in range(2))
    expected = stepped(whole, range(8))
    stepped(killed, range(at))
    file = io.BytesIO()
    torch.save(killed.state_dict(), file)
    file.seek(0)
    resumed = methods.make(name, 3)
    resumed.load_state_dict(copy.deepcopy(torch.load(file, weights_only=True)))
    for ours, theirs in zip(stepped(resumed, range(at, 8)), expected[at:], strict=True):
        assert torch.equal(ours, theirs)


def test_all_processes_weight_the_mean_losses(monkeypatch):
    """As if another process had losses twice as large: weights follow from the mean of both."""

    def as_if(tensors):
        for tensor in tensors:
            tensor *= 1.5

    monkeypatch.setattr(distributed, "average", as_if)
    found = scalarized.together([torch.tensor(1.0), torch.tensor(3.0)])
    torch.testing.assert_close(found, 1.5 * TWO)


@pytest.mark.parametrize("name", [*NAMES, "shifting"])
def test_it_is_an_arm(name):
    assert arms.arm(f"joint+{name}") == {"junction": dfs.Joint(), "method": name}


def test_options_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="accumulate=2: famo needs a whole batch"):
        dfs.recipes.get("digits/vgg7-4", method="famo", accumulate=2)
    with pytest.raises(ValueError, match="method 'shifting' chooses them itself"):
        methods.make("shifting", 2, (1.0, 2.0))
    dfs.recipes.get("digits/vgg7-4", method="shifting", accumulate=2)

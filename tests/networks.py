"""A tiny network with a batch, for tests of methods, in float64, with a nested trunk; and whole runs of small ones."""

import contextlib
import math

import torch

import dfs_edu as dfs
from dfs_edu import methods
from dfs_edu.training import arms

TWO_EXITS = "msdnet-cifar-blocks2-base1-step1-growth4-width4"
NESTED = ("vgg7-4", "msdnet-cifar-blocks3-base1-step1-growth2")
JOINT = dfs.Joint()


def tiny(junction=JOINT, backbone="vgg7-4"):
    torch.manual_seed(0)
    net = dfs.build(backbone, 5, junction).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 3, 32, 32, generator=generator, dtype=torch.float64)
    return net, images, torch.randint(5, (6,), generator=generator)


def parts(net):
    return list(net.stages.parameters()), list(net.heads.parameters())


def begun(method, net):
    """A method, or the one of this name, that knows the stages, as the trainer leaves it."""
    method = methods.make(method, len(net.heads)) if isinstance(method, str) else method
    method.begin([list(stage.parameters()) for stage in net.stages])
    return method


def gradients(net):
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


class Nested(torch.nn.Module):
    """A trunk of two nested stages and a head after each, with its losses, written out: exit 1 reads stage 1 alone."""

    def __init__(self):
        super().__init__()
        sizes = {"first": (4, 6), "second": (6, 5), "head1": (6, 3), "head2": (5, 3)}
        for name, (inside, outside) in sizes.items():
            self.register_module(name, torch.nn.Linear(inside, outside, dtype=torch.float64))

    def forward(self, x, y, each=False):
        shallow = self.first(x).tanh()
        logits = [self.head1(shallow), self.head2(self.second(shallow).tanh())]
        how = "none" if each else "mean"
        return [torch.nn.functional.cross_entropy(logits_k, y, reduction=how) for logits_k in logits], logits

    @property
    def parts(self):
        """Trunk and heads."""
        pairs = (self.first, self.second), (self.head1, self.head2)
        return [[p for module in pair for p in module.parameters()] for pair in pairs]


class Loop:
    """What a method uses of the trainer, in a few lines; the learning rate is constant unless there are milestones."""

    autocast = contextlib.nullcontext

    def __init__(self, method, forward, trunk, others, milestones=(), **sgd):
        self.method, self.forward, self.parameters = method, forward, (trunk, others)
        self.optimizer = torch.optim.SGD([*trunk, *others], **sgd)
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, milestones)
        self.rates = []
        method.begin([trunk])

    def gradients(self, x, y):
        losses, _ = self.forward(x, y, each=self.method.by_image)
        self.method.backward(losses, *self.parameters)

    def update(self):
        self.rates.append(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.optimizer.zero_grad()

    def epoch(self, epoch, epochs, batches):
        self.method.begin_epoch(epoch, epochs)
        for x, y in batches:
            self.method.step(self, x, y)
            self.schedule.step()


def drawn_batches(count, images=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(images, 4, generator=generator, dtype=torch.float64)  # noqa: E731
    return [(draw(), torch.randint(3, (images,), generator=generator)) for _ in range(count)]


def trained_with(changes, **options):
    """Every loss of the last epoch of a run is finite; a change "track" is an option of training, not of the recipe."""
    track = {"track": changes["track"]} if "track" in changes else {}
    changes = {name: value for name, value in changes.items() if name != "track"}
    recipe = dfs.recipes.get(f"digits/{TWO_EXITS}", **options, **changes)
    run = dfs.train(recipe, out=None, device="cpu", progress=False, **track)
    assert all(math.isfinite(loss) for loss in run.record["epochs"][-1]["loss"])


def trained_as_an_arm(field, value):
    """Train what the arm "joint+VALUE" says, after its words were read, written and read again."""
    changes = arms.arm(f"joint+{value}")
    assert changes == {"junction": dfs.Joint(), field: value}
    recipe = dfs.recipes.get("digits/vgg7-4", scale="smoke", **changes)
    assert recipe.name == f"digits-vgg7-4-smoke-joint-{value}-seed0"
    assert arms.label(recipe.to_dict()) == f"joint, {value}"
    assert type(recipe).from_dict(recipe.to_dict()) == recipe
    return dfs.train(recipe, out=None, device="cpu", progress=False)

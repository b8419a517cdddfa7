"""The split convolution against nn.Conv2d, torch's own checks, and counts of what was computed."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dfs_edu.backbones import build
from dfs_edu.multiexit import MultiExit
from dfs_edu.splitgrad import Conv2d, runs
from dfs_edu.surgery import Detached, Equilibrium, Joint, Surgery

C = 6  # channels of the input
# Live channels of the input: f+, f-, a stretch in between, several, none, all, and unknown
LIVE = [np.array([int(c) for c in mask], bool) for mask in ("110000", "111110", "001111", "001100", "101101", "011010")]
LIVE += [np.zeros(C, bool), np.ones(C, bool), None]
GEOMETRIES = [
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2},
    {"kernel_size": 5, "padding": 1},
    {"kernel_size": 5, "stride": 2, "bias": False},
    {"kernel_size": (3, 1), "stride": (2, 1), "padding": (1, 0)},
]
SURGERIES = [
    Surgery(beta, reference, own) for beta in (0, 0.3, 1) for reference in (True, False) for own in ("own", "all")
]

every_live = pytest.mark.parametrize("live", LIVE, ids=str)
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


def pair(live, dtype=torch.float64, **geometry):
    """A split convolution and nn.Conv2d with the same weights."""
    torch.manual_seed(0)
    split = Conv2d(C, 4, **geometry).to(dtype)
    plain = nn.Conv2d(C, 4, **geometry).to(dtype)
    plain.load_state_dict(split.state_dict(), strict=True)
    split.skip_all_but(live)
    return split, plain


def input_of(dtype=torch.float64, size=(9, 8), **kwargs):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, C, *size, dtype=dtype, generator=generator).contiguous(**kwargs).requires_grad_()


def is_live(live):
    """True for the live channels, shaped to broadcast over the input."""
    return torch.ones(C, 1, 1, dtype=torch.bool) if live is None else torch.from_numpy(live)[:, None, None]


@every_geometry
@every_live
def test_values_and_gradients_are_those_of_nn_conv2d(live, geometry):
    split, plain = pair(live, **geometry)
    x = input_of()
    y, y_plain = split(x), plain(x)
    assert torch.equal(y, y_plain)
    with torch.no_grad():
        assert torch.equal(split(x), y)
    g = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
    g_x, *found = torch.autograd.grad(y, [x, *split.parameters()], g)
    g_x_plain, *expected = torch.autograd.grad(y_plain, [x, *plain.parameters()], g)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(g_x, g_x_plain * is_live(live), rtol=1e-12, atol=1e-13)
    dead = g_x.masked_select(~is_live(live))
    assert torch.equal(dead, torch.zeros_like(dead))


@every_geometry
@pytest.mark.parametrize("live", [live for live in LIVE if live is None or live.any()], ids=str)
def test_gradcheck_where_only_live_channels_vary(live, geometry):
    split, _ = pair(live, **geometry)
    channels = is_live(live).flatten()
    still = input_of(size=(5, 4) if split.kernel_size[0] == 3 else (6, 5)).detach()[:1]
    names = list(dict(split.named_parameters()))

    def y(x_live, *parameters):
        x = still.index_copy(1, channels.nonzero().flatten(), x_live)
        return torch.func.functional_call(split, dict(zip(names, parameters, strict=True)), (x,))

    arguments = still[:, channels].clone().requires_grad_(), *split.parameters()
    assert gradcheck(y, arguments, fast_mode=True)
    assert gradgradcheck(y, arguments, fast_mode=True)


def test_gradcheck_of_the_weights_where_nothing_is_live():
    split, _ = pair(np.zeros(C, bool), kernel_size=3, padding=1)
    still = input_of(size=(4, 3)).detach()

    def y(weight, bias):
        return torch.func.functional_call(split, {"weight": weight, "bias": bias}, (still,))

    assert gradcheck(y, tuple(split.parameters()), fast_mode=True)
    assert gradgradcheck(y, tuple(split.parameters()), fast_mode=True)


@every_live
def test_frozen_weights_and_inputs_without_gradient(live):
    split, plain = pair(live, kernel_size=3, padding=1)
    x = input_of()
    split(x.detach()).square().sum().backward()
    plain(x.detach()).square().sum().backward()
    for a, b in zip(split.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)
    split.requires_grad_(False)
    split(x).square().sum().backward()
    (expected,) = torch.autograd.grad(plain(x).square().sum(), x)
    torch.testing.assert_close(x.grad, expected * is_live(live), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
@every_live
def test_autocast(live, inside):
    split, plain = pair(live, dtype=torch.float32, kernel_size=3, padding=1)
    exact = copy.deepcopy(plain)
    x = input_of(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, y_plain = split(x), plain(x)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, y_plain)
        if inside:
            found = torch.autograd.grad(y.float().square().sum(), [x, *split.parameters()])
    if not inside:
        found = torch.autograd.grad(y.float().square().sum(), [x, *split.parameters()])
    y_exact = exact(x)
    expected = torch.autograd.grad(y_exact.square().sum(), [x, *exact.parameters()])
    torch.testing.assert_close(y.float(), y_exact, rtol=0.02, atol=0.02)
    for a, b in zip(found, [expected[0] * is_live(live), *expected[1:]], strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= 0.02 * b.norm()


@every_live
def test_channels_last_goes_in_and_its_gradient_comes_out(live):
    split, plain = (
        conv.to(memory_format=torch.channels_last) for conv in pair(live, dtype=torch.float32, kernel_size=3, padding=1)
    )
    x = input_of(torch.float32, memory_format=torch.channels_last)
    y = split(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, plain(x))
    g = torch.randn_like(y)
    (g_x,) = torch.autograd.grad(y, x, g)
    assert g_x.is_contiguous(memory_format=torch.channels_last)
    (expected,) = torch.autograd.grad(plain(x), x, g)
    torch.testing.assert_close(g_x, expected * is_live(live))


@pytest.mark.parametrize(
    "wrong", [{"groups": 2}, {"padding": 1, "padding_mode": "reflect"}, {"padding": "same"}], ids=str
)
def test_what_it_cannot_do_is_refused(wrong):
    name, value = list(wrong.items())[-1]
    with pytest.raises(ValueError, match=f"{name}={value!r}.*one group, .* zero padding given in numbers"):
        Conv2d(C, 4, 3, **wrong)


# What is computed


class Convolutions(TorchDispatchMode):
    """Counts what reaches the kernels: forward convolutions, and what each backward convolution computes."""

    def __init__(self):
        super().__init__()
        self.forward, self.input_gradients, self.weight_gradients, self.filters = 0, [], 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.forward += 1
            self.filters.append(args[1].shape[0])
        if func is torch.ops.aten.convolution_backward.default:
            wants_input, wants_weight, _ = args[-1]
            if wants_input:
                self.input_gradients.append(args[2].shape[1])  # channels of the weight that was used
            self.weight_gradients += wants_weight
        return func(*args, **(kwargs or {}))


@every_live
def test_one_convolution_forward_and_only_what_is_live_backward(live):
    split, _ = pair(live, kernel_size=3, padding=1)
    channels = C if live is None else live.sum()
    with Convolutions() as counted:
        y = split(input_of())
        assert counted.forward == 1
        y.square().sum().backward()
    assert counted.forward == 1
    assert counted.input_gradients == ([channels] if channels else [])
    assert counted.weight_gradients == 1


@every_live
def test_gradients_without_a_reader_are_not_computed(live):
    split, _ = pair(live, kernel_size=3, padding=1)
    with Convolutions() as of_the_weights:
        split(input_of().detach()).square().sum().backward()
    assert (of_the_weights.input_gradients, of_the_weights.weight_gradients) == ([], 1)
    with Convolutions() as of_the_input:
        split.requires_grad_(False)(input_of()).square().sum().backward()
    assert of_the_input.weight_gradients == 0


@every_live
@every_geometry
def test_flops_are_the_theory_s(geometry, live):
    """Forward one unit, weight gradient one, input gradient as much of one as channels are live."""
    split, _ = pair(live, **geometry)
    x, channels = input_of(), C if live is None else live.sum()
    with FlopCounterMode(display=False) as forward:
        y = split(x)
    kernel = split.weight[0, 0].numel()
    unit = 2 * y.shape[0] * y.shape[2] * y.shape[3] * 4 * C * kernel
    assert forward.get_total_flops() == unit
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert backward.get_total_flops() == unit + unit * channels // C
    assert unit * channels % C == 0


@pytest.mark.parametrize("junction", [Joint(), *SURGERIES], ids=str)
def test_a_whole_network_convolves_once_a_layer(junction):
    net = build("vgg7-10", 3, junction)
    with Convolutions() as counted:
        logits = net(torch.randn(2, 3, 16, 16))
        assert counted.forward == 6
        sum(logits_k.square().sum() for logits_k in logits).backward()
    assert counted.forward == 6
    assert counted.weight_gradients == 6
    expected = [round(channels * getattr(junction, "beta", 1)) for channels in (40, 20, 20, 10, 10)]
    assert counted.input_gradients == [channels for channels in expected if channels]


@pytest.mark.parametrize("junction", SURGERIES, ids=str)
def test_no_copy_of_the_weights_is_kept(junction):
    net, joint = build("vgg7-4", 3, junction), build("vgg7-4", 3)
    parameters = {name: p.shape for name, p in net.named_parameters()}
    assert parameters == {name: p.shape for name, p in joint.named_parameters()}
    assert [name for name, _ in net.named_buffers()] == [name for name, _ in joint.named_buffers()]
    assert all("norm" in name for name, _ in net.named_buffers())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        logits = net(torch.randn(2, 3, 16, 16))
    ours = {p.data_ptr() for p in net.parameters()}
    weights = [t for t in kept if t.ndim == 4 and t.shape[2:] == (3, 3)]
    assert len(weights) >= 6
    assert all(t.data_ptr() in ours for t in weights)
    del logits


# One set of weights for every junction


@pytest.mark.parametrize("junction", [Detached(), Equilibrium(), *SURGERIES], ids=str)
def test_weights_move_freely_between_junctions(junction):
    torch.manual_seed(0)
    joint = build("vgg7-4", 3)
    images = torch.randn(4, 3, 16, 16)
    joint(images)  # BatchNorm's statistics move away from where they start
    net = build("vgg7-4", 3, junction)
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in joint.state_dict().items()}
    net.load_state_dict(joint.state_dict(), strict=True)
    joint.load_state_dict(net.state_dict(), strict=True)
    hides_nothing = junction in (Surgery(1, False, "all"), Detached(), Equilibrium()) or junction.reference
    for mode in (True, False):
        same = [torch.equal(a, b) for a, b in zip(net.train(mode)(images), joint.train(mode)(images), strict=True)]
        assert all(same) if hides_nothing else not all(same)


def test_a_network_can_be_copied():
    net = build("vgg7-4", 3, Surgery(0.5))
    twin = copy.deepcopy(net)
    assert [s.conv.live for s in twin.stages] == [s.conv.live for s in net.stages]
    assert [s.conv.live for s in net.stages] == [None, *[(slice(0, n),) for n in (2, 2, 4, 4, 8)]]


# Whole networks in other ways of running


def loss_and_gradients(net, images):
    loss = sum(logits_k.float().square().mean() for logits_k in net(images))
    return loss.detach(), torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)


@pytest.mark.parametrize("junction", [Joint(), *SURGERIES], ids=str)
def test_a_whole_network_under_autocast(junction):
    torch.manual_seed(0)
    net = build("vgg7-4", 3, junction).eval()
    images = torch.randn(4, 3, 16, 16)
    loss, gradients = loss_and_gradients(net, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(logits_k.dtype == torch.bfloat16 for logits_k in net(images))
        low_loss, low_gradients = loss_and_gradients(net, images)
    torch.testing.assert_close(low_loss, loss, rtol=0.03, atol=1e-6)
    for a, b in zip(low_gradients, gradients, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= 0.2 * b.norm() + 1e-6


@pytest.mark.parametrize("junction", [Joint(), *SURGERIES], ids=str)
def test_a_whole_network_in_channels_last(junction):
    torch.manual_seed(0)
    net = build("vgg7-4", 3, junction).eval()
    images = torch.randn(4, 3, 16, 16)
    loss, gradients = loss_and_gradients(net, images)
    net = net.to(memory_format=torch.channels_last)
    last_loss, last_gradients = loss_and_gradients(net, images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last_loss, loss)
    for a, b in zip(last_gradients, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def compiled_equals_eager(junction, backend, tolerance):
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = build("vgg7-4", 3, junction)
    twin = copy.deepcopy(net)
    images = torch.randn(4, 3, 16, 16)
    loss, gradients = loss_and_gradients(net, images)
    compiled = torch.compile(twin, backend=backend, fullgraph=True)  # fullgraph: a graph break is an error
    found_loss, found_gradients = loss_and_gradients(compiled, images)
    torch.testing.assert_close(found_loss, loss, rtol=tolerance, atol=tolerance)
    for a, b in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    for a, b in zip(twin.buffers(), net.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "junction",
    [Detached(), Equilibrium(), Surgery(0), Surgery(0.3), Surgery(0.5, False), Surgery(0.5, exit_gradient="all")],
    ids=str,
)
def test_one_graph_holds_forward_and_backward(junction):
    """Traced as torch.compile traces it, without the minutes that machine code takes."""
    compiled_equals_eager(junction, "aot_eager", 1e-6)


def test_torch_compile_equals_eager():
    compiled_equals_eager(Surgery(0.5), "inductor", 1e-4)


def test_a_compiled_network_skips_the_same_work():
    calls = {"forward": [], "backward": []}

    def keep(pass_):
        def compiler(graph, _):
            calls[pass_] += [node for node in graph.graph.nodes if node.op == "call_function"]
            return make_boxed_func(graph)

        return compiler

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=keep("forward"), bw_compiler=keep("backward"))
    net = torch.compile(build("vgg7-10", 3, Surgery(0.3)), backend=backend, fullgraph=True)
    sum(logits_k.square().sum() for logits_k in net(torch.randn(2, 3, 16, 16))).backward()
    assert len([node for node in calls["forward"] if node.target is torch.ops.aten.convolution.default]) == 6
    backward = [node for node in calls["backward"] if node.target is torch.ops.aten.convolution_backward.default]
    input_gradients = [node.args[2].meta["val"].shape[1] for node in backward if node.args[-1][0]]
    assert input_gradients == [12, 6, 6, 3, 3]
    assert len([node for node in backward if node.args[-1][1]]) == 6


def test_a_network_sets_what_its_convolutions_skip():
    """Outside of any network a convolution is plain; in a network it skips what the junction before it cuts."""
    conv, first = Conv2d(C, C, 1), Conv2d(3, C, 1)
    assert conv.live is None
    MultiExit([nn.Sequential(first), nn.Sequential(conv)], [nn.Flatten(), nn.Flatten()], Surgery(0.5))
    assert conv.live == (slice(0, 3),)
    MultiExit([nn.Sequential(first), nn.Sequential(conv)], [nn.Flatten(), nn.Flatten()], Joint())
    x = input_of()
    g = torch.randn(2, C, 9, 8, dtype=x.dtype)
    (found,) = torch.autograd.grad(conv.double()(x), x, g)
    torch.testing.assert_close(found, torch.autograd.grad(F.conv2d(x, conv.weight, conv.bias), x, g)[0])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("", ()),
        ("0000", ()),
        ("1111", ((0, 4),)),
        ("0110", ((1, 3),)),
        ("1011", ((0, 1), (2, 4))),
        ("0101", ((1, 2), (3, 4))),
    ],
)
def test_runs(mask, expected):
    assert runs(np.array([int(c) for c in mask], bool)) == tuple(slice(*run) for run in expected)


# Depthwise: a filter a channel


DEPTHWISE = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 3, "stride": 3},
    {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 4)},
    {"kernel_size": 1, "stride": 2, "padding": 1},  # more padding than the filter reaches
]


def depthwise(live, geometry, dtype=torch.float64):
    torch.manual_seed(0)
    split, plain = (kind(C, C, groups=C, **geometry).to(dtype) for kind in (Conv2d, nn.Conv2d))
    plain.load_state_dict(split.state_dict())
    split.skip_all_but(live)
    return split, plain


@pytest.mark.parametrize("geometry", DEPTHWISE, ids=str)
@every_live
def test_depthwise_values_and_gradients_are_those_of_nn_conv2d(live, geometry):
    split, plain = depthwise(live, geometry)
    x = input_of()
    y, y_plain = split(x), plain(x)
    assert torch.equal(y, y_plain)
    g = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
    g_x, *found = torch.autograd.grad(y, [x, *split.parameters()], g)
    g_x_plain, *expected = torch.autograd.grad(y_plain, [x, *plain.parameters()], g)
    torch.testing.assert_close(g_x, g_x_plain * is_live(live), rtol=1e-12, atol=1e-13)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@every_live
def test_depthwise_skips_what_is_not_live(live):
    split, _ = depthwise(live, DEPTHWISE[0])
    channels = C if live is None else live.sum()
    with Convolutions() as counted:
        split(input_of()).square().sum().backward()
    assert counted.filters == [C, channels][: 1 + bool(channels)]  # forward, and flipped, for the live channels
    assert counted.input_gradients == []


@pytest.mark.parametrize("geometry", DEPTHWISE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_depthwise_channels_last_stays(dtype, geometry):
    split, plain = (conv.to(memory_format=torch.channels_last) for conv in depthwise(None, geometry, dtype))
    x = input_of(dtype, memory_format=torch.channels_last)
    y, y_plain = split(x), plain(x)
    g = torch.randn_like(y)
    (g_x,), (expected,) = torch.autograd.grad(y, x, g), torch.autograd.grad(y_plain, x, g)
    assert g_x.is_contiguous(memory_format=torch.channels_last)
    # Processors without instructions for bfloat16 sum up in it, in another order: a few units in the last place
    rounding = {"rtol": 1.6e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(g_x, expected, **rounding)


@pytest.mark.parametrize("live", [LIVE[0], LIVE[4]], ids=str)
def test_depthwise_gradcheck(live):
    split, _ = depthwise(live, {"kernel_size": 3, "padding": 1})
    still = input_of(size=(4, 3)).detach()[:1]

    def y(x_live, weight, bias):
        x = still.index_copy(1, torch.from_numpy(live).nonzero().flatten(), x_live)
        return torch.func.functional_call(split, {"weight": weight, "bias": bias}, (x,))

    assert gradcheck(y, (still[:, live].clone().requires_grad_(), *split.parameters()), fast_mode=True)


# Strided 1x1 convolutions of few channels, whose weight gradient corrupts the heap on processors with AVX2 alone

LOWER = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}  # what such a processor has

STEPS = """
import torch
from torch import nn
from torch.nn import functional as F
from dfs_edu.backbones import attach, build

class Small(nn.Module):  # somebody's own network, with a shortcut as in ResNet
    def __init__(self):
        super().__init__()
        self.conv, self.shortcut = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 1, stride=2)
        self.last, self.fc = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.last(self.shortcut(self.conv(x)).relu()).mean((2, 3)))

images, labels = torch.randn(3, 3, 16, 16), torch.tensor([0, 1, 2])
for net in build("resnet18-width4-depth1", 3), attach(Small(), ["shortcut"], input_shape=(3, 16, 16)):
    net.to(memory_format=torch.channels_last)
    for _ in range(10):
        logits = net(images.contiguous(memory_format=torch.channels_last))
        sum(F.cross_entropy(logits_k, labels) for logits_k in logits).backward()
        litter = [torch.randn(n, 3) for n in range(1, 40)]  # blocks beside, which an overrun would damage
print("intact")
"""


@pytest.mark.skipif(not Path("/lib/x86_64-linux-gnu/libc_malloc_debug.so.0").exists(), reason="needs glibc's checks")
def test_training_leaves_the_heap_intact_on_a_processor_with_avx2_alone():
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env=os.environ | LOWER | checked, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "intact\n"), done.stderr[-2000:]


@pytest.mark.parametrize("live", [None, (slice(0, 2),)], ids=["all", "some"])
@pytest.mark.parametrize("size", [7, 8])
def test_a_strided_1x1_convolution_of_few_channels_is_nn_conv2d(live, size):
    torch.manual_seed(0)
    conv = Conv2d(4, 6, 1, stride=(2, 3)).double()
    conv.live = live
    x = torch.randn(2, 4, size, size, dtype=torch.float64, requires_grad=True)
    x_plain = x.detach().clone().requires_grad_()
    plain = F.conv2d(x_plain, conv.weight, conv.bias, stride=(2, 3))
    y = conv(x)
    torch.testing.assert_close(y, plain)
    g = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, conv.weight, conv.bias], g)
    expected = torch.autograd.grad(plain, [x_plain, conv.weight, conv.bias], g)
    if live:
        expected[0][:, 2:] = 0
    torch.testing.assert_close(found, expected)

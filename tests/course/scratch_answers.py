"""Answers to the exercises that are written from scratch: right ones in several styles, and what students get wrong."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import dfs_edu as dfs
from dfs_edu.surgery import channel_dim

# --- one pass of training ---------------------------------------------------------------------------------------------


def train(net, batches, optimizer):
    for images, labels in batches:
        loss = 0
        for logits in net(images):
            loss = loss + F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def train_exit_by_exit(net, batches, optimizer):
    net.train()
    for i in range(len(batches)):
        net.zero_grad(set_to_none=False)
        every = list(net.exits(batches[i][0]))
        for logits in every:
            nn.CrossEntropyLoss()(logits, batches[i][1]).backward(retain_graph=True)
        optimizer.step()


def train_by_hand(net, batches, optimizer):
    """Without cross_entropy, and a loss is returned."""
    total = 0.0
    for images, labels in batches:
        optimizer.zero_grad()
        every = torch.stack(net(images)).log_softmax(2)
        loss = -every[:, torch.arange(len(labels)), labels].mean(1).sum()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(batches)


def sum_of_losses(net, images, labels):
    return sum(F.cross_entropy(logits, labels) for logits in net(images))


def trained(loss, clear=True):
    """A loop with another loss, or one that clears gradients only before the first batch."""

    def train(net, batches, optimizer):
        optimizer.zero_grad()
        for images, labels in batches:
            if clear:
                optimizer.zero_grad()
            loss(net, images, labels).backward()
            optimizer.step()

    return train


def step_first(net, batches, optimizer):
    for images, labels in batches:
        loss = sum_of_losses(net, images, labels)
        optimizer.step()
        optimizer.zero_grad()
        loss.backward()


def clears_what_it_computed(net, batches, optimizer):
    for images, labels in batches:
        loss = sum_of_losses(net, images, labels)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()


def no_backward(net, batches, optimizer):
    for images, labels in batches:
        sum_of_losses(net, images, labels)
        optimizer.step()


def no_step(net, batches, optimizer):
    for images, labels in batches:
        optimizer.zero_grad()
        sum_of_losses(net, images, labels).backward()


def last_exit_and_no_step(net, batches, optimizer):
    for images, labels in batches:
        F.cross_entropy(net(images)[-1], labels).backward()


def one_step_at_the_end(net, batches, optimizer):
    for images, labels in batches:
        sum_of_losses(net, images, labels).backward()
    optimizer.step()


def returns_too_early(net, batches, optimizer):
    for images, labels in batches:
        optimizer.zero_grad()
        loss = sum_of_losses(net, images, labels)
        loss.backward()
        optimizer.step()
        return loss


def in_eval_mode(net, batches, optimizer):
    net.eval()
    train(net, batches, optimizer)


def frees_the_graph(net, batches, optimizer):
    for images, labels in batches:
        optimizer.zero_grad()
        for logits in net(images):
            F.cross_entropy(logits, labels).backward()
        optimizer.step()


def step_per_exit(net, batches, optimizer):
    for images, labels in batches:
        for k in range(len(net.heads)):
            optimizer.zero_grad()
            F.cross_entropy(net(images)[k], labels).backward()
            optimizer.step()


def two_exits_only(net, batches, optimizer):
    for images, labels in batches:
        first, second = net(images)
        optimizer.zero_grad()
        (F.cross_entropy(first, labels) + F.cross_entropy(second, labels)).backward()
        optimizer.step()


def adds_numbers(net, batches, optimizer):
    for images, labels in batches:
        optimizer.zero_grad()
        loss = 0
        for logits in net(images):
            loss += F.cross_entropy(logits, labels).item()
        loss.backward()
        optimizer.step()


def keeps_the_last_loss(net, batches, optimizer):
    for images, labels in batches:
        optimizer.zero_grad()
        for logits in net(images):
            loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()


def train_by_closure(net, batches, optimizer):
    for images, labels in batches:

        def closure(images=images, labels=labels):
            optimizer.zero_grad()
            loss = sum_of_losses(net, images, labels)
            loss.backward()
            return loss

        optimizer.step(closure)


def no_gradients(net, batches, optimizer):
    for images, labels in batches:
        with torch.no_grad():
            every = net(images)
        sum(F.cross_entropy(logits, labels) for logits in every).backward()


def own_optimizer(net, batches, optimizer):
    train(net, batches, torch.optim.SGD(net.parameters(), lr=0.1))


def another_optimizer(net, batches, optimizer):
    train(net, batches, torch.optim.Adam(net.parameters()))


TRAIN = [
    (trained(sum_of_losses, clear=False), "zero_grad() is missing in the loop"),
    (trained(lambda net, x, y: sum_of_losses(net, x, y) / len(net.heads)), "mean of the exits' losses: take their sum"),
    (trained(lambda net, x, y: sum_of_losses(net, x, y) / 2), "mean of the exits' losses"),
    (trained(lambda net, x, y: F.cross_entropy(net(x)[-1], y)), "only the last exit is trained"),
    (trained(lambda net, x, y: F.cross_entropy(net(x)[0], y)), "only the first exit is trained"),
    (trained(lambda net, x, y: sum(F.cross_entropy(z, y) for z in net(x)[:2])), "more than two exits"),
    (trained(lambda net, x, y: sum(F.cross_entropy(z.softmax(1), y) for z in net(x))), "takes logits"),
    (
        trained(lambda net, x, y: sum(F.cross_entropy(z, y, reduction="sum") for z in net(x))),
        "average the loss over the images, as",
    ),
    (trained(lambda net, x, y: F.cross_entropy(sum(net(x)), y)), "not their logits"),
    (trained(lambda net, x, y: F.cross_entropy(net(x), y)), "the network returns a list of logits"),
    (step_first, "call step() after backward"),
    (clears_what_it_computed, "erases the gradients"),
    (no_backward, "backward() is missing"),
    (no_step, "step() is missing"),
    (last_exit_and_no_step, "step() is missing"),
    (one_step_at_the_end, "one step for every batch"),
    (returns_too_early, "only the first batch was used: is return inside the loop"),
    (in_eval_mode, "in eval mode"),
    (frees_the_graph, "once, on the sum of the losses"),
    (step_per_exit, "steps of the given optimizer: 6 where 3"),
    (two_exits_only, "use a loop"),
    (no_gradients, "the loss has no gradient"),
    (adds_numbers, "item() makes a plain number of the loss"),
    (keeps_the_last_loss, "only the last exit is trained"),
    (own_optimizer, "the optimizer that is given"),
    (another_optimizer, "steps of the given optimizer: 0"),
    (lambda *case: (train(*case), train(*case)), "one pass"),
    (lambda net, batches, optimizer: train(net, batches[-1:], optimizer), "only the last batch"),
    (lambda net, batches, optimizer: train(net, batches[:-1], optimizer), "steps of the given optimizer: 2 where 3"),
    (lambda net, batches: None, "calls your function with 3 arguments"),
]

# --- a junction -------------------------------------------------------------------------------------------------------


class OwnSurgery(dfs.Junction):
    """By detach, for every form of a feature."""

    def __init__(self, beta):
        self.beta = beta

    def n(self, channels):
        return round(channels * self.beta)

    def parts(self, f):
        d = channel_dim(f)
        n = self.n(f.shape[d])
        return d, f.narrow(d, 0, n), f.narrow(d, n, f.shape[d] - n)

    def split(self, f):
        d, shared, specific = self.parts(f)
        return torch.cat([shared, specific.detach()], d), torch.cat([shared.detach(), specific], d)


class ByGradient(OwnSurgery):
    """By the rule alone; the base class makes the views."""

    split = dfs.Junction.split

    def gradient(self, g_onward, g_seen):
        merged = g_seen.clone()
        d, shared, _ = self.parts(g_onward)
        merged.narrow(d, 0, shared.shape[d]).copy_(shared)
        return merged


class ByMask(OwnSurgery):
    def split(self, f):
        mask = torch.arange(f.shape[channel_dim(f)]) < self.n(f.shape[channel_dim(f)])
        mask = mask[:, None, None] if f.ndim == 4 else mask
        return torch.where(mask, f, f.detach()), torch.where(mask, f.detach(), f)


class ByArithmetic(OwnSurgery):
    def __call__(self, f):
        d, shared, specific = self.parts(f)
        onward, seen = torch.cat([shared, 0 * specific], d), torch.cat([0 * shared, specific], d)
        return onward + seen.detach(), seen + onward.detach()


class Swapped(OwnSurgery):
    def split(self, f):
        return super().split(f)[::-1]


class Uncut(OwnSurgery):
    def split(self, f):
        return f, f


class UncutOnward(OwnSurgery):
    def split(self, f):
        return f, super().split(f)[1]


class ExitEverywhere(OwnSurgery):
    def split(self, f):
        return super().split(f)[0], f


class ExitDetached(OwnSurgery):
    def split(self, f):
        return f, f.detach()


class AllDetached(OwnSurgery):
    def split(self, f):
        return f.detach(), f.detach()


class Zeros(OwnSurgery):
    def split(self, f):
        d, shared, specific = self.parts(f)
        return torch.cat([shared, 0 * specific], d), torch.cat([0 * shared, specific], d)


class Cut(OwnSurgery):
    def n(self, channels):
        return int(channels * self.beta)


class LastChannels(OwnSurgery):
    def n(self, channels):
        return channels - round(channels * self.beta)


class Half(OwnSurgery):
    def __init__(self, beta):
        self.beta = 0.5


class NoBeta(OwnSurgery):
    def __init__(self, beta):
        pass


class ChannelsSecond(OwnSurgery):
    def parts(self, f):
        n = self.n(f.shape[1])
        return 1, f[:, :n], f[:, n:]


class WritesIntoF(OwnSurgery):
    def split(self, f):
        d, shared, specific = self.parts(f)
        seen = f.clone()
        seen.narrow(d, 0, shared.shape[d]).copy_(shared.detach())
        specific.copy_(specific.detach().clone())
        return f, seen


class Sum(OwnSurgery):
    split = dfs.Junction.split

    def gradient(self, g_onward, g_seen):
        return g_onward + g_seen


class Average(ByGradient):
    def gradient(self, g_onward, g_seen):
        return super().gradient(g_onward, g_seen) / 2


class Cropped(OwnSurgery):
    def split(self, f):
        return self.parts(f)[1:]


class OneView(OwnSurgery):
    def split(self, f):
        return super().split(f)[0]


class Prints(OwnSurgery):
    def split(self, f):
        print(super().split(f))


class NotAJunction:
    def __init__(self, beta):
        self.beta = beta


JUNCTION = [
    (Swapped, "the two are swapped"),
    (Uncut, "nothing is cut yet"),
    (UncutOnward, "deeper exits still reach f-"),
    (ExitEverywhere, "reaches f+ too"),
    (ExitDetached, "that is Detached"),
    (AllDetached, "f receives nothing"),
    (Zeros, "partitioning alone"),
    (Cut, "rounded as Python does"),
    (LastChannels, "f+ is the first"),
    (Half, "beta is always 0.5"),
    (NoBeta, "has no attribute 'beta'"),
    (ChannelsSecond, "last dimension"),
    (WritesIntoF, "write into a clone"),
    (Sum, "nothing is cut yet"),
    (Average, "the gradient that f receives from onward: 0.17"),
    (Cropped, "both views keep all C channels"),
    (OneView, "return two tensors, onward and seen"),
    (Prints, "use return instead of print"),
    (NotAJunction, "derive your class"),
    (OwnSurgery(0.5), "your class itself"),
]

# --- early exit -------------------------------------------------------------------------------------------------------


def early_exit(net, thresholds, images):
    """Stage by stage, with the numbers of the images that are still here."""
    labels, exits = torch.full((len(images),), -1), torch.full((len(images),), -1)
    here, state = torch.arange(len(images)), images
    for k, (stage, head) in enumerate(zip(net.stages, net.heads, strict=True)):
        state = stage(state)
        confidence, label = head(state).softmax(1).max(1)
        leave = confidence >= thresholds[k]
        labels[here[leave]], exits[here[leave]] = label[leave], k
        here, state = here[~leave], state[~leave]
        if not len(here):
            break
    return labels, exits


def exit_by_generator(net, thresholds, images):
    labels, exits = [None] * len(images), [None] * len(images)
    here, steps = list(range(len(images))), net.exits(images)
    logits = next(steps)
    for k, threshold in enumerate(thresholds.tolist()):
        p = logits.softmax(1)
        stay = [i for i in range(len(here)) if p[i].max() < threshold]
        for i in set(range(len(here))) - set(stay):
            labels[here[i]], exits[here[i]] = int(p[i].argmax()), k
        here = [here[i] for i in stay]
        if not here:
            return labels, exits
        logits = steps.send(torch.tensor(stay))


def exit_one_by_one(net, thresholds, images):
    answers = []
    for image in images:
        for k, logits in enumerate(net.exits(image[None])):
            if logits.softmax(1).max() >= thresholds[k]:
                answers.append((logits.argmax().item(), k))
                break
    return torch.tensor(answers).T


@torch.inference_mode()
def exit_with_numpy(net, thresholds, images):
    labels, exits = np.zeros(len(images), int), np.zeros(len(images), int)
    here, state = np.arange(len(images)), images
    parts = zip(net.stages, net.junctions, net.heads, thresholds, strict=True)
    for k, (stage, junction, head, threshold) in enumerate(parts):
        onward, seen = junction(stage(state))
        p = head(seen).softmax(1).numpy()
        leave = p.max(1) >= threshold.item()
        labels[here[leave]], exits[here[leave]] = p.argmax(1)[leave], k
        here, state = here[~leave], onward[torch.from_numpy(~leave)]
        if not here.size:
            break
    return labels, exits


def computes_everything(net, thresholds, images, above=torch.ge):
    p = torch.stack(net(images)).softmax(2)
    exits = above(p.amax(2), thresholds[:, None]).byte().argmax(0)
    return p.argmax(2)[exits, torch.arange(len(images))], exits


def stops_when_all_left(net, thresholds, images):
    labels, exits = torch.zeros(len(images)).long(), torch.full((len(images),), -1)
    for k, logits in enumerate(net.exits(images)):
        confidence, label = logits.softmax(1).max(1)
        leave = (confidence >= thresholds[k]) & (exits < 0)
        labels[leave], exits[leave] = label[leave], k
        if (exits >= 0).all():
            break
    return labels, exits


def exiting(above=torch.ge, score=lambda z: z.softmax(1).amax(1), at=lambda t, k: t[k], start=0, empty=True):
    """Early exit with another comparison, another score, another threshold."""

    def early_exit(net, thresholds, images):
        labels, exits = torch.zeros(len(images)).long(), torch.zeros(len(images)).long()
        here, state = torch.arange(len(images)), images
        for k in range(len(thresholds)):
            state = net.stages[k](state)
            logits = net.heads[k](state)
            leave = above(score(logits), at(thresholds, k))
            if k == len(thresholds) - 1:
                leave[:] = True
            labels[here[leave]], exits[here[leave]] = logits.argmax(1)[leave], k + start
            here, state = here[~leave], state[~leave]
            if not len(here):
                break
        return labels, exits

    return early_exit


def begins_anew_for_each_exit(net, thresholds, images):
    labels, exits = torch.zeros(len(images)).long(), torch.zeros(len(images)).long()
    here = torch.arange(len(images))
    for k in range(len(thresholds)):
        state = images[here]
        for stage in net.stages[: k + 1]:
            state = stage(state)
        confidence, label = net.heads[k](state).softmax(1).max(1)
        leave = confidence >= thresholds[k]
        labels[here[leave]], exits[here[leave]] = label[leave], k
        here = here[~leave]
        if not len(here):
            break
    return labels, exits


def last_takes_nothing(net, thresholds, images):
    labels, exits = torch.zeros(len(images)).long(), torch.zeros(len(images)).long()
    here, state = torch.arange(len(images)), images
    for k in range(len(thresholds)):
        state = net.stages[k](state)
        confidence, label = net.heads[k](state).softmax(1).max(1)
        leave = (confidence >= thresholds[k]) & (k < len(thresholds) - 1)
        labels[here[leave]], exits[here[leave]] = label[leave], k
        here, state = here[~leave], state[~leave]
        if not len(here):
            break
    return labels, exits


def forgets_the_numbers(net, thresholds, images):
    labels, exits = torch.zeros(len(images)).long(), torch.zeros(len(images)).long()
    state = images
    for k in range(len(thresholds)):
        state = net.stages[k](state)
        confidence, label = net.heads[k](state).softmax(1).max(1)
        leave = (confidence >= thresholds[k]).nonzero()[:, 0]
        labels[leave], exits[leave] = label[leave], k
        state = state[confidence < thresholds[k]]
        if not len(state):
            break
    return labels, exits


def masks_of_another_size(net, thresholds, images):
    labels, exits = torch.zeros(len(images)).long(), torch.zeros(len(images)).long()
    state = images
    for k in range(len(thresholds)):
        state = net.stages[k](state)
        confidence, label = net.heads[k](state).softmax(1).max(1)
        leave = confidence >= thresholds[k]
        labels[leave], exits[leave] = label[leave], k
        state = state[~leave]
    return labels, exits


def reads_the_images_again(net, thresholds, images):
    labels, exits = torch.zeros(len(images)).long(), torch.zeros(len(images)).long()
    here = torch.arange(len(images))
    for k in range(len(thresholds)):
        confidence, label = net.heads[k](net.stages[k](images[here])).softmax(1).max(1)
        leave = confidence >= thresholds[k]
        labels[here[leave]], exits[here[leave]] = label[leave], k
        here = here[~leave]
        if not len(here):
            break
    return labels, exits


def in_order_of_leaving(net, thresholds, images):
    labels, exits, state = [], [], images
    for k in range(len(thresholds)):
        state = net.stages[k](state)
        confidence, label = net.heads[k](state).softmax(1).max(1)
        leave = confidence >= thresholds[k]
        labels += label[leave].tolist()
        exits += [k] * int(leave.sum())
        state = state[~leave]
        if not len(state):
            break
    return labels, exits


def all_or_none(net, thresholds, images):
    for k, logits in enumerate(net.exits(images)):
        if logits.softmax(1).max() >= thresholds[k]:
            return logits.argmax(1), torch.full((len(images),), k)


EARLY_EXIT = [
    (computes_everything, "images that have left are still computed"),
    (lambda net, t, x: computes_everything(net, t, x, torch.gt), "still computed"),
    (stops_when_all_left, "images that have left are still computed"),
    (exiting(above=torch.gt), "reaches"),
    (exiting(above=torch.le), "the other way round"),
    (exiting(score=lambda z: z.amax(1)), "softmax first"),
    (exiting(score=lambda z: (top := z.softmax(1).topk(2).values)[:, 0] - top[:, 1]), "is expected"),
    (exiting(at=lambda t, k: t[0]), "each exit has its own threshold"),
    (exiting(at=lambda t, k: 1 - t[k]), "is expected"),
    (exiting(start=1), "counted from 0"),
    (last_takes_nothing, "takes all images that are left"),
    (forgets_the_numbers, "keep the numbers"),
    (masks_of_another_size, "keep the numbers"),
    (reads_the_images_again, "not the images again"),
    (begins_anew_for_each_exit, "images that stage 1 computes: 12 where 7 is expected"),
    (in_order_of_leaving, "the order of leaving"),
    (all_or_none, "decides for itself"),
    (lambda *case: early_exit(*case)[::-1], "labels first"),
    (lambda *case: early_exit(*case)[0], "return two things"),
    (lambda *case: print(early_exit(*case)), "use return instead of print"),
]

SCRATCH = {"train": TRAIN, "junction": JUNCTION, "early_exit": EARLY_EXIT}
RIGHT = {"train": train, "junction": OwnSurgery, "early_exit": early_exit}
ALSO_RIGHT = [
    ("train", train_exit_by_exit),
    ("train", train_by_hand),
    ("train", train_by_closure),
    ("train", lambda *case: train(*case) or 0.5),
    ("junction", ByGradient),
    ("junction", ByMask),
    ("junction", ByArithmetic),
    ("junction", dfs.Surgery),
    ("early_exit", exit_by_generator),
    ("early_exit", exit_one_by_one),
    ("early_exit", exiting()),
    ("early_exit", exit_with_numpy),
    ("early_exit", lambda net, thresholds, images: dfs.inference.EarlyExit(net, thresholds)(images)),
]

"""A training that dies in the middle of a step, and what of its record must not show that it did."""

from dfs_edu.methods.method import Method

# What of an epoch's row depends on the training alone, and not on the clock
SAME = ("epoch", "loss", "train_accuracy", "validation_accuracy", "gradient_norm", "conflict")


class Killed(BaseException):
    pass


def die_in_step(patch, number, of=Method):
    """Raise Killed instead of taking the step of this number; the list returned counts all steps from then on.

    ``of`` is the class of the method, if it has a step of its own.
    """
    plain, steps = of.step, []

    def deadly(method, loop, *batch):
        steps.append(None)
        if len(steps) == number:
            raise Killed
        plain(method, loop, *batch)

    patch.setattr(of, "step", deadly)
    return steps

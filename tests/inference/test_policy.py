"""A policy is temperatures first, then thresholds, for one budget."""

import pytest
import torch

from dfs_edu import inference
from dfs_edu.inference import Outputs


def test_a_policy_does_not_depend_on_the_budgets_beside_it():
    generator = torch.Generator().manual_seed(7)
    label = torch.randint(5, (400,), generator=generator)
    logits = torch.randn(4, 400, 5, generator=generator) + torch.arange(1, 5)[:, None, None] * (
        torch.nn.functional.one_hot(label, 5)
    )
    validation, macs, budgets = Outputs.of(logits, label, "validation"), [1.0, 2.0, 4.0, 8.0], [1.5, 3.0, 5.0, 8.0]
    together = inference.fit_policies(validation, macs, budgets, "margin")
    for budget, policy in zip(budgets, together, strict=True):
        (alone,) = inference.fit_policies(validation, macs, [budget], "margin")
        assert torch.equal(alone.thresholds, policy.thresholds)
        assert torch.equal(alone.temperatures, inference.fit_temperatures(validation))
        scored = validation.again("margin", alone.temperatures)
        assert inference.apply(scored, alone.thresholds, macs).macs <= budget
    scored = validation.again("margin", together[0].temperatures)
    searched = inference.best_thresholds(scored, macs, budgets)  # in which what serves one budget may serve another
    assert not all(torch.equal(t, policy.thresholds) for t, policy in zip(searched, together, strict=True))
    with pytest.raises(ValueError, match="test split"):
        inference.fit_policies(Outputs.of(logits, label, "test"), macs, budgets)

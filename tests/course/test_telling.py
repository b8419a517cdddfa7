"""At scale smoke a notebook says that its numbers mean nothing, and interprets none."""

from __future__ import annotations

import pytest

from dfs_edu import course


def test_a_banner_at_smoke_alone():
    assert "mean nothing" in course.banner("smoke").data
    assert [course.banner(scale) for scale in ("lesson", "full", "paper")] == [None] * 3


@pytest.mark.parametrize("scale", ["lesson", "full", "paper"])
def test_results_are_interpreted_above_smoke(scale):
    assert course.interpret("Surgery **loses**.", scale).data == "Surgery **loses**."


def test_nothing_is_interpreted_at_smoke():
    said = course.interpret("Surgery **loses** 3 points.", "smoke").data
    assert "Surgery" not in said
    assert "not interpreted" in said

from __future__ import annotations

from unittest import mock

from tests.support.models import engine


def test_what_an_extra_token_costs_is_measured_once() -> None:
    runner = engine().runner
    cost = runner.extra_token_cost(2, 5)
    assert 0 <= cost < 1  # five tokens cost less than five steps
    with mock.patch.object(runner, "step") as step:
        assert runner.extra_token_cost(2, 5) == cost
        step.assert_not_called()

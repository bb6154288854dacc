"""What all engines share: a warning of rewards that teach nothing."""

from dpg.generators.engine import ZeroRewards


def test_a_step_whose_rewards_are_all_zero_is_said_once(capsys):
    zeros = ZeroRewards()
    zeros.look(0, {"reward_mean": 0.0, "reward_std": 1e-9})  # they differ
    zeros.look(1, {"reward_mean": 0.5, "reward_std": 0.0})  # equal, as the naive reward's may be
    assert capsys.readouterr().err == ""
    zeros.look(2, {"reward_mean": 0.0, "reward_std": 0.0})
    assert capsys.readouterr().err.startswith("step 2: every reward is zero")
    zeros.look(3, {"reward_mean": 0.0, "reward_std": 0.0})
    assert capsys.readouterr().err == ""

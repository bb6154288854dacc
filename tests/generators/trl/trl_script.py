"""Run by TRL's Python: the engine's trainer with given rewards and, optionally, given rollouts.

    python trl_script.py RUN_FILE GIVEN RESULT

GIVEN has `rewards` float64 [steps x U, G]. For fixed completions it also has `tokens` int32
[steps x U, G, R] and `lengths` int64 [steps x U, G].
RESULT gets the trained weights. With fixed completions, the steps' numbers contain the
log-probabilities with which the trainer scored them.
"""

import sys
from collections import Counter

import numpy as np
import safetensors.numpy

from dpg.generators.trl import worker
from dpg.generators.trl.rewards import Scorer
from dpg.generators.trl.run import Run, last_checkpoint
from dpg.generators.trl.trainer import Trainer
from dpg.rewards.protocol import RewardError, Rewards


class Client:
    """A stand-in for the reward server; it raises an error for a reward that is NaN."""

    def __init__(self, rewards, shape, fixed):
        self.rewards, self.shape, self.fixed = rewards, shape, fixed

    def __call__(self, batch):
        start = batch.step * self.shape.prompts
        values = self.rewards[start : start + self.shape.prompts].reshape(-1).copy()
        if np.isnan(values).any():
            raise RewardError(f"step {batch.step}: the metagradients are not finite, says the test")
        if not self.fixed:  # they depend on what was sampled
            values += 1e-9 * (batch.tokens * batch.mask).sum(1)
        assert batch.groups.tolist() == sorted(batch.groups.tolist())
        return Rewards(values, batch.groups, {"metric": float(values.sum())})

    def validate(self, batch):
        score = float((batch.tokens * batch.mask).sum())
        return Rewards(np.full(len(batch), score), batch.groups, {"metric": score})


def trainer_with(given):
    """The trainer. With fixed completions it does not sample in training."""

    class Fixed(Trainer):
        def _tokenize_prompts(self, prompts):
            self.places = [int(place) for place in prompts]
            return super()._tokenize_prompts(prompts)

        def _generate_single_turn(self, prompt_ids, *rest, **more):
            places, self.places = getattr(self, "places", None), None
            if places is None:  # a validation
                return super()._generate_single_turn(prompt_ids, *rest, **more)
            seen, answers = Counter(), []
            for place in places:
                member = seen[place]
                seen[place] += 1
                length = given["lengths"][place, member]
                answers.append(given["tokens"][place, member, :length].tolist())
            return answers, None

    return Fixed if "tokens" in given else Trainer


def main(path, source, result):
    run = Run.read(path)
    given = safetensors.numpy.load_file(source)
    client = Client(given["rewards"], run.shape, "tokens" in given)
    trainer = worker.build(run, kind=trainer_with(given), scorer=Scorer(run, client))
    last = last_checkpoint(run.files.checkpoints)[1]
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    trainer.validate(run.shape.steps)
    if trainer.accelerator.is_main_process:
        weights = {k: v.detach().cpu().numpy() for k, v in trainer.model.named_parameters()}
        safetensors.numpy.save_file(weights, result)
    worker.end_of_processes()


if __name__ == "__main__":
    main(*sys.argv[1:])

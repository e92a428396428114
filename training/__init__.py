"""A training step: what it does to the weights, and where and how precisely it computes.

`trainer` takes the steps, `trace` records what they did, `capture` replays them as CUDA graphs,
`device` chooses where they run, and `table` is what a run prints.
"""

from training.trainer import Trainer

"""Named settings, the lines that they consist of, and running these: here or on a cluster.

`setting` says what an experiment is, `demos` (a CPU, minutes) and `papers` (full scale) name some,
`lines` turns them into commands and folders, `cost` counts their work, `runner` runs a line,
`local` and `slurm` run many, and `status` says how far they are.
"""

from experiments.demos import DEMOS
from experiments.papers import PAPERS
from experiments.setting import Experiment

EXPERIMENTS = {experiment.name: experiment for experiment in (*DEMOS, *PAPERS)}

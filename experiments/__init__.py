"""Named settings, the lines that they consist of, and running these: here or on a cluster.

`setting` defines an experiment; `periods` (P1) and `regimes` (P2) name some, and `block` reads the
driver's. `lines` turns them into commands and folders, `cost` estimates what they take, `runner`
runs a line, `local` and `slurm` run many, and `status` tells how far they are.
"""

from experiments.periods import PERIODS
from experiments.regimes import REGIMES
from experiments.setting import Experiment

EXPERIMENTS = {experiment.name: experiment for experiment in (*PERIODS, *REGIMES)}

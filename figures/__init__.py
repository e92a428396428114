"""Everything that is drawn or tabulated, in one style: `python -m figures Experiments/demo`.

Every function that draws takes runs (`runs.find_runs`) or arrays and returns a matplotlib Figure.
"""

from figures.estimates import estimates
from figures.papers import comparison, figure2, layers, three_regimes
from figures.paths import path_barriers
from figures.periods import loss_panels, one_period
from figures.rates import conventional, label_noise, loss_and_error, sharpness_by_rate
from figures.regimes import diagram_of_runs, diagram_of_toy
from figures.report import panels, report
from figures.style import plt, save
from figures.summaries import (
    NO_RUNS,
    label,
    on_sphere,
    summary_row,
    varies,
)
from figures.tables import claims, period_table, table

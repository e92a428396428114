"""Everything that is drawn or tabulated, in one style: `python -m figures Experiments/demo`.

Every function that draws takes runs (`runs.find_runs`) or arrays and returns a matplotlib Figure.
"""

from figures.estimates import estimates
from figures.labels import label, labels, on_sphere
from figures.panels import layers, loss_panels, one_period, panels
from figures.papers import comparison, figure2, three_regimes
from figures.paths import path_barriers
from figures.rates import conventional, label_noise, loss_and_error, sharpness_by_rate
from figures.regimes import diagram_of_runs, diagram_of_toy
from figures.report import NO_RUNS, report
from figures.style import plt, save
from figures.tables import claims, period_table, summary_row, table

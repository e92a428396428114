"""Everything that is drawn or tabulated, in one style: `python -m figures Experiments/demo`.

Every function that draws takes runs (`runs.find_runs`) or arrays and returns a matplotlib Figure.
"""

from figures.estimates import estimates
from figures.labels import differ, label, labels, on_sphere
from figures.panels import layers, one_period, panels
from figures.papers import comparison, figure2, loss_and_error, three_regimes
from figures.paths import path_barriers
from figures.rates import conventional, label_noise, sharpness_by_rate
from figures.regimes import diagram_of_runs, diagram_of_toy
from figures.report import report
from figures.style import plt, save
from figures.tables import period_table, table

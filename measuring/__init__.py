"""What is measured of a network.

`meter` measures one network in one pass over the data, `curvature` has its Hessian and Fisher
products, `recorder` measures while a run trains, `rebuild` makes the network of a finished run, and
`diversity` compares the minima of its periods.
"""

from measuring.meter import Meter
from measuring.wanted import Wanted, parameter_names

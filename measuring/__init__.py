"""What is measured of a network.

`wanted` names what can be measured, `meter` measures one network in one pass over the data with the
`sums` of its batches, `curvature` has its Hessian and Fisher products, `distance` compares its
weights with others, `recorder` measures while a run trains, `trial` tries a network from elsewhere
before a run writes anything, `rebuild` makes the network of a finished run and evaluates it, and
`diversity` and `paths` compare checkpoints.
"""

from measuring.meter import Meter
from measuring.wanted import parameter_names

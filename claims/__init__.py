"""What the papers claim, measured: `python -m claims`.

A claim is one function: `periods`, `mechanism` and `minima` hold those of P1, `sphere` those of P2.
Its docstring is the design: what is estimated, the margin and its reason, what would contradict it.
`claim` says what all of them share, `statistics` how intervals and verdicts are made, `table` how
they are told.
"""

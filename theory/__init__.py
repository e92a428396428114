"""The papers' formulas, and what they find in a run's numbers: NumPy and SciPy only.

`dynamics` says what a step does to the weights, `periods` finds the cycles of norm and loss during
a run or afterwards, `forecast` predicts the next turn of the norm, `regimes` names the regime of
training on the sphere, and `toy` is a function of six numbers that shows all three regimes.
"""

"""The papers' formulas, and what they find in a run's numbers: NumPy and SciPy only.

`dynamics` says what a step does to the weights, `periods` finds the cycles of norm and loss while a
run goes on or afterwards, `forecast` says when the next one turns, `regimes` names the regime of
training on the sphere, and `toy` is a function of six numbers that shows all three regimes.
"""

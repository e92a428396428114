"""The papers' formulas, and what they find in a run's numbers: NumPy and SciPy only.

`dynamics` says what a step does to the weights, `periods` and `jumps` find cycles and their sharp
ends in records, `regimes` names the regime of training on the sphere, `fits` has power laws, and
`toy` is a function of six numbers that shows all three regimes.
"""

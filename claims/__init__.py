"""What the papers claim, measured: `python -m claims`.

`rules` says when a claim holds. `periodic`, `mechanism` and `minima` measure those of P1, `sphere`
those of P2, `branches` trains what goes on from a checkpoint, `second_regime` compares schedules on
the sphere. `finding` says what a claim is, `table` lists and measures them.
"""

"""What the papers claim, measured: `python -m claims`.

Each module holds one group of claims: `periodic`, `mechanism` and `minima` those of P1, `sphere`
and `second_regime` those of P2. `finding` says what a claim is, `table` lists and measures them.
"""

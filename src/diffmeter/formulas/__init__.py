"""Closed forms: the exact cost of a model as a function of what a user sets.

``polynomial`` and ``domain`` are the mathematics, ``program`` the order of calls; ``evaluate`` answers from a formula
without PyTorch, ``library`` finds the formulas of the catalog, ``derive`` makes new ones from dry runs.
"""

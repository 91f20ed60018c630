"""Formulas: their mathematics, how they are found, and those that the package ships."""

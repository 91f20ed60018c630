"""Whatever shows a result: tables, comparisons, plots."""

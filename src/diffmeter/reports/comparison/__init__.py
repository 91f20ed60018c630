"""Models, sizes, steps and batches side by side: one typed row a case, counted in dry runs or taken from profiles.

>>> from diffmeter import compare, sweep
>>> compare({"SD 1.5": "sd15", "ours": pipe, "ours, cached": run.profile}, steps=30)
>>> sweep(["sd15"], heights=[512, 768, 1024], steps=[4, 28, 50], batches=[1, 4]).to_csv()
"""

from .rows import Case, Comparison, Row
from .run import compare, sweep

__all__ = ["Case", "Comparison", "Row", "compare", "sweep"]

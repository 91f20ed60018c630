"""Models, sizes, steps and batches side by side: one typed row a case, counted in dry runs.

>>> from diffmeter import compare, sweep
>>> compare(["sd-1.5", "sdxl"], steps=30)
>>> sweep(["sd-1.5"], heights=[512, 768, 1024], steps=[4, 28, 50], batches=[1, 4]).to_csv()
"""

from .rows import Case, Comparison, ComponentCost, Row
from .run import compare, sweep

__all__ = ["Case", "Comparison", "ComponentCost", "Row", "compare", "sweep"]

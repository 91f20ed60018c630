from diffmeter.compute_profiler import *

__import__("src").alias(__name__, "diffmeter.compute_profiler")

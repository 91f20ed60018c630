__import__("src").alias(__name__, "diffmeter.compute_profiler")

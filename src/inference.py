from diffmeter.inference import *

__import__("src").alias(__name__, "diffmeter.inference")

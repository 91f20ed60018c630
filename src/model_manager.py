from diffmeter.model_manager import *

__import__("src").alias(__name__, "diffmeter.model_manager")

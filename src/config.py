from diffmeter.config import *

__import__("src").alias(__name__, "diffmeter.config")

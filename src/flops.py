from diffmeter.flops import *

__import__("src").alias(__name__, "diffmeter.flops")

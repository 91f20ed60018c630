from diffmeter.resnet_bk.counter import *

__import__("src").alias(__name__, "diffmeter.resnet_bk.counter")

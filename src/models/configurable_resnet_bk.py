from diffmeter.resnet_bk.model import *

__import__("src").alias(__name__, "diffmeter.resnet_bk.model")

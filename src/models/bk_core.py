from diffmeter.resnet_bk.bk_core import *

__import__("src").alias(__name__, "diffmeter.resnet_bk.bk_core")

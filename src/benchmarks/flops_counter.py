__import__("src").alias(__name__, "diffmeter.resnet_bk.counter")

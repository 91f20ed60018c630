"""Models that diffmeter brings along for its own counters: ResNet-BK and its BK-Core."""

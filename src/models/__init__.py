"""The ResNet-BK model's promised path."""

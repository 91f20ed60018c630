"""The ResNet-BK model and its FLOPs counter."""

"""The FLOPs counter's promised path."""

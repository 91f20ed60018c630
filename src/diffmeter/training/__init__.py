"""What training a model costs."""

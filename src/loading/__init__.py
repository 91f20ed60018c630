"""Behind the model manager: configurations from folders and the hub, pipelines without weights, stand-ins."""

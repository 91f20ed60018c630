"""How a number comes about: a run is watched, its calls are recorded, each is counted on a twin."""

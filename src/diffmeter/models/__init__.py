"""Where models come from: the catalog, the hub, blueprints without weights, tokenizers, weight files."""

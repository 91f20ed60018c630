"""Standing in for components: copies on the meta device, and the counted replay of one recorded call."""

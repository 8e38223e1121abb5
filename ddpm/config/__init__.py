"""Settings: their fields, limits, flags and JSON, and the presets.  What they come to is worked out in `ddpm.planning`."""

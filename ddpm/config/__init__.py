"""Settings: their fields, limits, flags and JSON, and the presets.  What follows from them is computed in
`ddpm.planning`.
"""

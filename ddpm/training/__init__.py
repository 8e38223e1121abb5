"""The training process: trainer, optimiser, averages, the loop in a run folder, resuming."""

"""What `import ddpm` offers: runs on disk, training, models to sample from, evaluation;
nothing that only pages need.
"""

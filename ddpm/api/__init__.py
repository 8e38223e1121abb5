"""What `import ddpm` offers: runs on disk, training, models to sample from, evaluation; nothing for pages alone."""

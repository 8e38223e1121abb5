"""Exchange with improved-diffusion: importing its folders, exporting files that it reads."""

"""What settings come to before anything is computed: sizes, memory, timesteps, variance, guidance, labels.
No torch.
"""

"""What this computer has, and the share of it that a job may take: cores, memory, compiler, threads.  No torch."""

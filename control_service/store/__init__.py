"""What outlives a process: learned models, and recorded step traces."""

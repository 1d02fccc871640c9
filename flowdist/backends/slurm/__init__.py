"""SLURM: plans, batch scripts, and the backend that submits them and follows their jobs."""

"""What runs inside a job: evaluation of rows, the pool of processes, the claim loop, the heartbeat.

Nothing here imports a backend, pydantic, pandas or rich: a job starts fast on a thousand nodes.
"""

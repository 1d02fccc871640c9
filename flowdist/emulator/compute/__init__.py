"""Compute pools, services and jobs, and the containers that these start."""

"""Launching an ablation's runs, on this machine or on a Slurm cluster."""

"""Makes report pages from training runs, evaluations and sweeps, and a page of panels in W&B."""

"""The report page: evaluations, training runs and sweeps."""

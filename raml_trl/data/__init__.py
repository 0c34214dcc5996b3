"""Questions and trajectories on disk: reading, checking, filtering and sharding."""

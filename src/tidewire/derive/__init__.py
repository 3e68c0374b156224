"""Pure functions on frames: resampling."""

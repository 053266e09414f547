"""Training one network: the custom step, its schedule, its callbacks, and the run."""

"""What is compared: a comparison, an experiment of the paper."""

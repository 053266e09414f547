"""Stages, the store that keeps them, their cost, and the comparison they add up to."""

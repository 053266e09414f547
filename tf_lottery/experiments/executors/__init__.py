"""Executors of the stage graph: worker processes of this machine, or a Ray cluster."""

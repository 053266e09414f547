"""Stages, where they are kept and how they are carried out; knows no network."""

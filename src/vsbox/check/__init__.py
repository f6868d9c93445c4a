"""Prove from inside that each restriction of a box holds, with the same attempt outside as control."""

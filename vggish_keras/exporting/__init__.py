"""Models for other programs: one file for each target, and what only exports need."""

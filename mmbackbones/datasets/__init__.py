"""Data of our own making, and the check of everybody's."""

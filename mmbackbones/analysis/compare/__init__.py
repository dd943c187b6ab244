"""Finished runs beside each other and beside published results."""

"""Operators: the selective scan and the index orders in which images are scanned."""

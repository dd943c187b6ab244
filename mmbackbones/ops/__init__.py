"""Operators: the selective scan, scans of a map in several directions, and the index orders of such scans."""

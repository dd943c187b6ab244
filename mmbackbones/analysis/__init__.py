"""Questions put to networks, data and runs, one folder each."""

"""Generated data, and the check of any data set."""

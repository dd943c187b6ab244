"""Code that starts runs: suites, the quickstart, miniature trainings."""

"""What starts runs: suites, the quickstart, miniature trainings."""

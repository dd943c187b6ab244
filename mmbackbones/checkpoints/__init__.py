"""Checkpoints: reading, checking, writing and resuming them; in ``adapters`` the names of published weights."""

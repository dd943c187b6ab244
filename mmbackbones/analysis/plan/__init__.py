"""What a suite costs, before anybody starts it."""

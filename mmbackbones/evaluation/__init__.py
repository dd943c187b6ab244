"""What a run leaves and how it is compared: records, output folders, metrics, statistics."""

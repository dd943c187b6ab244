"""What the options of the data check choose from. Imports nothing."""

SPLITS = ('train', 'val', 'test')

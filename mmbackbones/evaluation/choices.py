"""What the options of the commands choose from. Imports nothing, so that a command tells its options at once."""

RECORDS = 'records.jsonl'  # in a work dir: one JSON object per line
SPLITS = ('object size', 'tokens', 'image area')
IOU_TYPES = {'box AP': 'bbox', 'mask AP': 'segm'}

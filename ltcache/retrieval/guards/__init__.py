"""What keeps a candidate out: copies and near duplicates, and the reason for each."""

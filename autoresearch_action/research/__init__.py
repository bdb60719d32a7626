"""The order of things, which this folder alone knows: search, then confirmation, then stop."""

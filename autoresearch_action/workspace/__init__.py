"""A candidate as code: the private repository, its trees, patches, and what may be edited."""

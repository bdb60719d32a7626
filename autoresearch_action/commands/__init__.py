"""One file a command: what the command line and the Action's steps do, put together of parts."""

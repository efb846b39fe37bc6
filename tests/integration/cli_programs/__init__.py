"""Programs that the command line is pointed at."""

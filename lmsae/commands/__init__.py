"""The work of the commands, on a plan and on artifacts."""

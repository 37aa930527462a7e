"""What the commands do with a plan and with artifacts."""

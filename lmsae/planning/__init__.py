"""From what the user wrote to passes: rows, specs, and how long they will take."""

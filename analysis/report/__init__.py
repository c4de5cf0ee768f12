"""Write the self-contained HTML page of a study."""

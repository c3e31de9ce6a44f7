"""Tables, pictures and pages from stored results."""

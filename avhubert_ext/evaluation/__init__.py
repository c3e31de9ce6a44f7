"""Word error rate, cost of a model, and reports."""

"""What people ask of a fit: estimates, tables, predictions, pictures."""

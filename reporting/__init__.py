"""Tables, plots and pages over many runs."""

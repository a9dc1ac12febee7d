"""What a run writes down while it trains: records, event files, plots of D-UL2."""

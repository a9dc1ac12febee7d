"""Training objectives: from groups of tokens and instruction pairs to samples. numpy only."""

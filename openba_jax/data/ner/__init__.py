"""Named entities as text: sentences whose words have labels, prompts and answers (GNER)."""

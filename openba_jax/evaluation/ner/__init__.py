"""Named entities: what a generated text says about the words of a sentence, and how right it is."""

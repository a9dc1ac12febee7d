"""OpenBA, the encoder-decoder of OpenBA-V2."""

"""From files of text to token stores: documents, rules, encoding, and preparation that resumes."""

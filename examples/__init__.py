"""Programs that show the library at work; they run from the root of a checkout."""

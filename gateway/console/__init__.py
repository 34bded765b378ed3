"""The page at /console: a phone in the browser, the calls that are up and those that were, what answers where."""

"""Many calls at once, from a process of its own: what `gateway loadtest` and `gateway capacity` are made of."""

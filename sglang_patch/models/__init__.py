"""Models that TurboSpec brings along: a real small one, and one whose acceptance is a dial."""

"""Rules of jets: cases of each, and random programs of them."""

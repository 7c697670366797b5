"""Drop-in replacements for the losses of other packages; each imports its package when it is first used."""
